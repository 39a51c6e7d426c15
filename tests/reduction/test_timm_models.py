"""Reduced models by name, through timm's own registry."""

import re

import pytest
import timm
import torch

import reduction

SIZES = {"tiny": 192, "small": 384, "base": 768}
NAMES = [
    f"{method}_{size}_patch16_224"
    for method in reduction.METHODS
    if method != "deit"
    for size in SIZES
]


@pytest.fixture(autouse=True, scope="module")
def registered():
    return reduction.register_timm_models()


def test_timm_lists_them(registered):
    assert list(registered) == NAMES
    assert set(timm.list_models(module="timm_models")) == set(NAMES)
    assert set(timm.list_models(module="timm_models", pretrained=True)) == {
        f"{name}.fb_in1k" for name in NAMES
    }


def test_registering_again_changes_nothing(registered):
    before = {name: timm.model_entrypoint(name) for name in NAMES}
    assert reduction.register_timm_models() == registered
    assert {name: timm.model_entrypoint(name) for name in NAMES} == before


def test_names_can_be_imported():
    from reduction import timm_models

    assert {"register_timm_models", *NAMES} == set(timm_models.__all__)
    assert all(getattr(timm_models, name).__name__ == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_creation(name):
    method, size, _ = name.split("_", maxsplit=2)
    with torch.device("meta"):
        model = timm.create_model(name, keep_rate=0.5, reduction_loc=(2, 5), num_classes=7)
    assert (model.method, model.keep_rate, model.reduction_loc) == (method, 0.5, (2, 5))
    assert (model.embed_dim, model.num_classes) == (SIZES[size], 7)
    assert model.pretrained_cfg["architecture"] == name


def test_options_reach_method_and_host():
    with torch.device("meta"):
        model = timm.create_model(
            "dpcknn_tiny_patch16_224", keep_rate=0.5, neighbours=3, img_size=64, drop_rate=0.2
        )
    assert [stage.neighbours for stage in model.stages] == [3, 3, 3]
    assert model.patch_embed.grid_size == (4, 4)
    assert model.head_drop.p == 0.2


def test_pretrained_weights_are_those_of_the_host(tmp_path):
    host = timm.create_model("deit_tiny_patch16_224", depth=3)
    torch.save({"model": host.state_dict()}, tmp_path / "deit.pth")
    model = timm.create_model(
        "sit_tiny_patch16_224.fb_in1k",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "deit.pth")},
        depth=3,
        reduction_loc=(1,),
        keep_rate=0.5,
    )
    loaded = reduction.unreduce(model).state_dict()
    for name, weight in host.state_dict().items():
        assert torch.equal(loaded[name], weight), name


def test_pretrained_configurations_point_to_the_host():
    ours, host = map(timm.get_pretrained_cfg, ("topk_base_patch16_224", "deit_base_patch16_224"))
    assert (ours.url, ours.hf_hub_id) == (host.url, host.hf_hub_id)
    assert (ours.mean, ours.input_size) == (host.mean, host.input_size)


def test_saved_models_come_back(tmp_path):
    model = timm.create_model(
        "topk_tiny_patch16_224", keep_rate=0.5, reduction_loc=(1, 2), num_classes=3, depth=3
    )
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert (again.method, again.keep_rate) == ("topk", 0.5)
    assert list(again.reduction_loc) == [1, 2]
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_names_of_others_are_refused(monkeypatch):
    def foreign(pretrained=False, **kwargs):
        pytest.fail("registering calls no entry point")

    foreign.__module__ = "elsewhere"
    monkeypatch.setitem(timm.models._registry._model_entrypoints, "ats_base_patch16_224", foreign)
    message = (
        "timm's model ats_base_patch16_224 is from elsewhere, but must not exist before the "
        "reduced ones are registered"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        reduction.register_timm_models()


def test_the_baseline_is_timms_own():
    assert timm.model_entrypoint("deit_tiny_patch16_224").__module__ == "timm.models.deit"
