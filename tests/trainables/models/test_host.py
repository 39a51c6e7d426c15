"""Hosts: embedded weights, new heads, other sizes, and the reduced model of a cell."""

import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models import save_for_hf

import reduction
from trainables.data import open_dataset
from trainables.data.loader import eval_loader
from trainables.data.normalisation import Normalisation
from trainables.data.transforms import eval_transform
from trainables.loop.metrics import predict, top_k_accuracy
from trainables.models.host import build_host, build_model, host_mean_std
from trainables.models.host_source import DEMO_HOSTS, WEIGHTS_FOLDER
from trainables.models.passes import InferencePass
from trainables.recipe import Recipe

TINY = "digits_tiny_patch4_32"


def record_of(name):
    return json.loads((WEIGHTS_FOLDER / f"{name}.json").read_text())


def host(name=TINY, **arguments):
    return build_host(name, **({"num_classes": 10, "image_size": 32} | arguments))


@pytest.fixture(scope="module")
def stored():
    return load_file(WEIGHTS_FOLDER / f"{TINY}.safetensors")


@pytest.mark.parametrize("name", sorted(DEMO_HOSTS))
def test_embedded_weights_are_those_of_their_record(name):
    weights = (WEIGHTS_FOLDER / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record_of(name)["sha256"]
    assert len(weights) < 2_000_000


@pytest.mark.parametrize("name", sorted(DEMO_HOSTS))
def test_embedded_host_has_the_accuracy_of_its_record(name):
    record = record_of(name)
    dataset = open_dataset(record["dataset"])
    size = DEMO_HOSTS[name]["img_size"]
    transform = eval_transform(Recipe(image_size=size, crop_ratio=1.0), dataset.task)
    loader = eval_loader(dataset.val, transform, batch_size=120)
    batches = map(Normalisation(*host_mean_std(name)), loader)
    model = reduction.reduce(host(name, dataset=dataset.name, image_size=size), "deit")
    (logits,), targets = predict(
        [InferencePass(model)], batches, device=torch.device("cpu"), dtype=None
    )
    accuracy = top_k_accuracy(logits, targets, 1)
    assert accuracy == pytest.approx(record["accuracy"]["val_top1"], abs=0.3)
    assert accuracy >= {"digits": 95, "digits_scenes": 80}[dataset.name]


def test_host_keeps_all_weights_on_its_own_dataset(stored):
    state = host(dataset="digits").state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in stored)


@pytest.mark.parametrize(("dataset", "num_classes"), [("digits_multi", 10), ("folder", 3)])
def test_head_is_new_on_another_dataset(stored, dataset, num_classes):
    state = host(dataset=dataset, num_classes=num_classes).state_dict()
    assert state["head.weight"].shape == (num_classes, 32)
    assert state["head.weight"].std() < 0.03, "a head starts from small weights"
    assert not state["head.bias"].any()
    kept = [name for name in stored if not name.startswith("head")]
    assert all(torch.equal(state[name], stored[name]) for name in kept)


def test_position_embedding_is_resampled_to_another_size(stored):
    resized = host(image_size=48, dataset="digits")
    expected = resample_abs_pos_embed(stored["pos_embed"], new_size=[12, 12], num_prefix_tokens=1)
    torch.testing.assert_close(resized.pos_embed.detach(), expected)
    assert resized(torch.zeros(1, 3, 48, 48)).shape == (1, 10)


def test_other_hosts_come_from_timm_with_the_recipes_drop_path():
    vit = build_host(
        "deit_tiny_patch16_224.fb_in1k", num_classes=7, pretrained=False, drop_path=0.2
    )
    assert vit(torch.zeros(1, 3, 224, 224)).shape == (1, 7)
    assert vit.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)


def test_pixels_are_normalised_as_the_host_was_trained():
    assert host_mean_std(TINY) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    config = timm.get_pretrained_cfg("deit_tiny_patch16_224.fb_in1k")
    assert host_mean_std("deit_tiny_patch16_224.fb_in1k") == (config.mean, config.std)


@pytest.mark.parametrize("name", ["nonsense", "deit_tiny_patch16_224.nonsense", "resnet10t"])
def test_unknown_hosts_are_named(name):
    message = f"host is '{name}', but must be a VisionTransformer of timm, local-dir:FOLDER, or .*"
    with pytest.raises(ValueError, match=message):
        host(name)
    with pytest.raises(ValueError, match=message):
        host_mean_std(name)


def test_a_host_can_be_a_local_folder(tmp_path):
    vit = timm.create_model("deit_tiny_patch16_224", num_classes=5, embed_dim=24, depth=2)
    vit.pretrained_cfg |= {"num_classes": 5, "mean": (0.1, 0.2, 0.3)}
    save_for_hf(vit, tmp_path, model_args={"embed_dim": 24, "depth": 2})
    name = f"local-dir:{tmp_path}"
    assert host_mean_std(name)[0] == (0.1, 0.2, 0.3)
    loaded = host(name, image_size=224, num_classes=7)
    assert torch.equal(loaded.blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)
    assert loaded.head.weight.shape == (7, 24)


def test_failed_downloads_are_one_clear_line(monkeypatch):
    def offline(*_, **__):
        raise FileNotFoundError("Please check your connection.\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    message = r"^host vit_tiny_patch16_224: .* cannot be had \(Please check your connection\.\)$"
    with pytest.raises(OSError, match=message):
        host("vit_tiny_patch16_224")


def test_what_starts_at_random_follows_the_cells_seed(make_cell):
    cell = make_cell("dpcknn", dataset="digits_multi", pretrained=True)
    state, random_state = build_model(cell, 10).state_dict(), torch.get_rng_state()
    same = build_model(cell, 10).state_dict()
    other = build_model(cell.model_copy(update={"seed": 1}), 10).state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    differing = {name for name in state if not torch.equal(state[name], other[name])}
    assert differing == {"head.weight"} | {
        f"stages.{i}.score.{kind}" for i in range(3) for kind in ("weight", "bias")
    }
    assert torch.equal(torch.get_rng_state(), random_state), "nobody else's draws move"


def test_cells_options_reach_the_method(make_cell):
    model = build_model(make_cell("dpcknn", options={"equal_weight": True}), 10)
    assert not any(name.startswith("stages") for name in model.state_dict())
