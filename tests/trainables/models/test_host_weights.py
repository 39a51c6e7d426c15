"""Pretrained weights from local folders and files, in every layout, and what is wrong with them."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models import save_for_hf

from trainables.models.host import build_host, build_model, host_mean_std
from trainables.models.host_source import HostSource

NAME = "deit_tiny_patch16_224.fb_in1k"
SMALL = {"embed_dim": 24, "depth": 2}


@pytest.fixture(scope="module")
def published():
    """A host of the published shape and names; its weights are random."""
    torch.manual_seed(1)
    return timm.create_model("deit_tiny_patch16_224")


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    """A folder with a small host as the hub keeps it; return the folder and the host."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(2)
    vit = timm.create_model("deit_tiny_patch16_224", **SMALL)
    vit.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3)}
    save_for_hf(vit, folder / NAME, model_args=SMALL)
    return folder, vit


def put(folder, layout, weights):
    """Write weights in one of the layouts that are looked for."""
    if layout == "safetensors":
        save_file(weights, folder / f"{NAME}.safetensors")
    elif layout == "pth":
        torch.save(weights, folder / f"{NAME}.pth")
    elif layout == "published pth":
        torch.save({"model": weights}, folder / f"{NAME}.pth")
    return folder


def host(weights, num_classes=1000, **arguments):
    return build_host(NAME, num_classes=num_classes, weights=weights, **arguments)


def assert_same(state, expected, *, but=()):
    names = [name for name in expected if not name.startswith(tuple(but))]
    assert names
    assert state.keys() == expected.keys()
    for name in names:
        assert torch.equal(state[name], expected[name]), name


@pytest.mark.parametrize("layout", ["safetensors", "pth", "published pth"])
def test_files_named_after_the_host_are_loaded_whole(tmp_path, published, layout):
    put(tmp_path, layout, published.state_dict())
    assert_same(host(tmp_path, dataset="imagenet").state_dict(), published.state_dict())


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_folders_as_the_hub_keeps_them_say_what_the_host_is(tmp_path, hub_folder, file):
    folder, vit = hub_folder
    (tmp_path / NAME).mkdir()
    config = (folder / NAME / "config.json").read_bytes()
    (tmp_path / NAME / "config.json").write_bytes(config)
    if file.endswith(".bin"):
        torch.save(vit.state_dict(), tmp_path / NAME / file)
    else:
        save_file(vit.state_dict(), tmp_path / NAME / file)
    assert_same(host(tmp_path, dataset="imagenet").state_dict(), vit.state_dict())
    assert host_mean_std(NAME, tmp_path)[0] == (0.1, 0.2, 0.3)
    bare = build_host(NAME, num_classes=7, pretrained=False, weights=tmp_path)
    assert (bare.embed_dim, len(bare.blocks)) == (24, 2)


def test_other_classes_and_sizes_get_a_new_head_and_a_resampled_embedding(hub_folder):
    folder, vit = hub_folder
    resized = host(folder, num_classes=7, image_size=64, dataset="imagenet")
    assert_same(resized.state_dict(), vit.state_dict(), but=("head", "pos_embed"))
    assert resized.head.weight.shape == (7, 24)
    expected = resample_abs_pos_embed(vit.pos_embed, new_size=[4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(resized.pos_embed, expected)
    assert resized(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_where_the_weights_lie_does_not_change_what_is_drawn(
    tmp_path, published, monkeypatch, make_cell
):
    """The head and a method's own parameters follow the seed, whatever the weights came in."""
    create = timm.create_model

    def from_hub(*arguments, pretrained=False, **keywords):
        model = create(*arguments, **keywords)
        if pretrained:
            model.load_state_dict(published.state_dict())
        return model

    cell = make_cell("dpcknn", host=NAME, image_size=224, pretrained=True)
    local = build_model(cell, 10, weights=put(tmp_path, "pth", published.state_dict()))
    monkeypatch.setattr(timm, "create_model", from_hub)
    assert_same(build_model(cell, 10).state_dict(), local.state_dict())


def test_what_is_looked_for_is_named(tmp_path):
    expected = (
        f"looked for {tmp_path / NAME}.safetensors, {tmp_path / NAME}.pth, "
        f"{tmp_path / NAME / 'model.safetensors'} or {tmp_path / NAME / 'pytorch_model.bin'}"
    )
    assert HostSource.find(NAME, tmp_path).problem() == expected
    with pytest.raises(OSError, match=r"its pretrained weights are missing: looked for "):
        host(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("norm.weight"), r"1 missing \(norm.weight\)"),
        (lambda state: state.update(extra=torch.ones(1)), r"1 unexpected \(extra\)"),
        (lambda state: state.update({"norm.bias": torch.ones(5)}), r"norm.bias \[5\], but must be"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, published, damage, message):
    state = dict(published.state_dict())
    damage(state)
    with pytest.raises(ValueError, match=message):
        host(put(tmp_path, "safetensors", state))


def test_code_in_a_file_is_refused(tmp_path):
    torch.save({"model": print}, tmp_path / f"{NAME}.pth")
    with pytest.raises(ValueError, match=r"\.pth asks for .*print, but must hold data alone"):
        host(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "does not say what the host is"),
        ('{"num_classes": 3}', "does not say what the host is"),
        ('{"architecture": "resnet18"}', "host is 'resnet18', but must be a VisionTransformer"),
    ],
)
def test_configurations_that_are_no_host_are_named(tmp_path, config, message):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        HostSource.find(NAME, tmp_path)
