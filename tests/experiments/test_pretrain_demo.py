"""The script that made the demo hosts: its images, targets and the record it writes."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from experiments import pretrain_demo
from experiments.pretrain_demo import (
    BLACK,
    augment,
    draw_batch,
    join_tiles,
    lr_factor,
    make_host,
    train,
    versions,
)
from trainables.models.host import build_host

NAME = "digits_tiny_patch4_32"


@pytest.fixture(scope="module")
def images():
    return torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_batches_are_half_digits_and_half_mosaics_with_their_class_shares(images):
    classes = functional.one_hot(torch.arange(20) % 10).float()
    shown, wanted = draw_batch(images, classes)
    assert shown.shape == (64, 3, 32, 32)
    assert shown.min() >= BLACK - 1e-6
    assert shown.max() <= 1 + 1e-6
    torch.testing.assert_close(wanted.sum(dim=1), torch.ones(64))
    assert (wanted[:32].max(dim=1).values == 1).all()
    black_tiles = (shown[32:].view(32, 3, 2, 16, 2, 16).amax(dim=(1, 3, 5)) == BLACK).flatten(1)
    shares = 1 / (4 - black_tiles.sum(dim=1)).double()
    multiples = wanted[32:].double() / shares[:, None]
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-6)


def test_tiles_are_joined_row_by_row():
    tiles = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    filled = torch.tensor([[True, True, False, True]])
    expected = torch.tensor([[0.0, 1.0], [BLACK, 3.0]]).repeat_interleave(4, 0)
    expected = expected.repeat_interleave(4, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(join_tiles(tiles, filled), expected)


def test_what_leaves_the_image_gives_way_to_the_background():
    black = torch.full((5, 3, 32, 32), BLACK)
    torch.testing.assert_close(augment(black), black)


def test_rate_rises_then_falls_to_zero():
    factors = [lr_factor(step, 100) for step in range(101)]
    assert factors.index(max(factors)) == 7
    assert factors[100] == pytest.approx(0, abs=1e-15)


def test_training_is_a_function_of_the_seed(images):
    trained = []
    for _ in range(2):
        torch.manual_seed(0)
        vit = build_host(NAME, num_classes=10, pretrained=False, image_size=32)
        before = vit.head.weight.clone()
        train(vit, images.repeat(4, 1, 1, 1), torch.arange(80) % 10, epochs=2)
        assert not torch.equal(vit.head.weight, before)
        trained.append(vit.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_a_host_is_written_with_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_demo, "train", lambda *_: None)
    make_host(NAME, seed=3, epochs=1, folder=tmp_path)
    record = json.loads((tmp_path / f"{NAME}.json").read_text())
    path = tmp_path / f"{NAME}.safetensors"
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["command"] == "python experiments/pretrain_demo.py --seed 3 --epochs 1"
    assert record["versions"] == versions()
    assert record["accuracy"]["val_images"] == 360
    assert load_file(path)["blocks.11.attn.qkv.weight"].shape == (96, 32)
