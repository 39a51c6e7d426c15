"""The script that made the hosts of scenes: its start, its targets and what it writes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments import pretrain_scenes
from experiments.pretrain_scenes import (
    BATCH_SIZE,
    CLASSES,
    STARTS,
    as_tensors,
    draw_batch,
    make_host,
    normalised,
    stretched,
    train,
)
from trainables.data import open_dataset
from trainables.data.base import Subset
from trainables.data.digits_scenes import scene_materials
from trainables.models.host import build_host

NAME = "scenes_tiny_patch8_64"


@pytest.fixture(scope="module")
def digits_host():
    return build_host(STARTS[NAME], num_classes=10, dataset="digits", image_size=32).eval()


def test_a_stretched_host_says_of_a_stretched_image_what_the_host_says_of_the_image(digits_host):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    twice = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    vit = stretched(NAME, digits_host.state_dict()).eval()
    torch.testing.assert_close(vit(twice), digits_host(images), rtol=1e-4, atol=1e-4)


def test_each_patch_is_told_whether_it_shows_the_digit():
    material, _ = scene_materials()
    shown, target, of_patch = draw_batch(material, np.random.default_rng(3), 0.5)
    random = np.random.default_rng(3)
    digits = random.integers(len(material.classes), size=BATCH_SIZE)
    scenes = [material.draw(digit, random, 0.5) for digit in digits]
    for place, (scene, digit) in enumerate(zip(scenes, digits, strict=True)):
        pixels = torch.from_numpy(scene.pixels / 127.5 - 1).permute(2, 0, 1).float()
        torch.testing.assert_close(shown[place], pixels)
        assert target[place] == material.classes[digit]
        for patch in range(64):
            top, left = 8 * (patch // 8), 8 * (patch % 8)
            opacity = scene.cover[top : top + 8, left : left + 8].mean() / 255
            expected = material.classes[digit] if opacity > 0.08 else CLASSES
            assert of_patch[place, patch] == expected


def test_training_is_a_function_of_the_seed_and_writes_on_the_way(digits_host, monkeypatch):
    monkeypatch.setattr(pretrain_scenes, "REPORT_EVERY", 2)
    trained, written = [], []
    for _ in range(2):
        torch.manual_seed(0)
        vit = stretched(NAME, digits_host.state_dict())
        train(vit, seed=0, scenes=3 * BATCH_SIZE, write=lambda: written.append(1))
        trained.append(vit.state_dict())
    assert len(written) == 2
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    assert not torch.equal(trained[0]["head.weight"], digits_host.head.weight)


def test_a_host_is_written_as_float16_with_its_record(tmp_path, monkeypatch):
    val = Subset(open_dataset("digits_scenes").val, range(20))
    monkeypatch.setattr(pretrain_scenes, "train", lambda *_: None)
    monkeypatch.setattr(pretrain_scenes, "evaluation_scenes", lambda: val)
    make_host(NAME, seed=3, scenes=64, folder=tmp_path)
    record = json.loads((tmp_path / f"{NAME}.json").read_text())
    command = "python experiments/pretrain_scenes.py --seed 3 --scenes 64"
    assert (record["command"], record["dataset"]) == (command, "digits_scenes")
    assert record["accuracy"]["val_images"] == 20
    weights = load_file(tmp_path / f"{NAME}.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert weights["patch_embed.proj.weight"].shape == (32, 3, 8, 8)


def test_scenes_are_normalised_as_the_hosts_are_evaluated():
    val = Subset(open_dataset("digits_scenes").val, range(3))
    images, targets = as_tensors(val)
    assert targets.tolist() == [val.target(index) for index in range(3)]
    pixels = np.stack([np.asarray(val.image(index)) for index in range(3)])
    torch.testing.assert_close(images, normalised(pixels))
    assert images.min() >= -1
    assert images.max() <= 1
