"""Checkpoints in every layout that is out there, whole, damaged and hostile."""

import argparse
import copy
import fractions
import os
import pathlib
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled

import reduction

ARGUMENTS = argparse.Namespace(lr=1e-3, reduction_loc=[1, 2], keep_rate=[0.5], output_dir="out")

PUBLISHED = {
    "dynamicvit": (
        "dyvit",
        "score_predictor",
        {
            "in_norm": "in_conv.0",
            "in_fc": "in_conv.1",
            "out_fc1": "out_conv.0",
            "out_fc2": "out_conv.2",
            "out_fc3": "out_conv.4",
        },
    ),
    "dpcknn": ("dpcknn", "cluster_layers", {}),
    "sit": ("sit", "cluster_layers", {"norm": "weight.0", "fc1": "weight.1", "fc2": "weight.3"}),
    "patchmerger": ("patchmerger", "cluster_layers", {}),
    "sinkhorn": ("sinkhorn", "cluster_layers", {"centers": "v"}),
}
"""Method -> its name in the reference arrays, its module list and layers in published files."""


def reduced(host, method="topk", **options):
    return reduction.reduce(host, method, keep_rate=0.5, reduction_loc=(1, 2), **options)


def other_weights(model):
    """A state dict of the model's names with weights that are not the model's."""
    return {name: x + 0.01 for name, x in model.state_dict().items()}


def assert_loaded(model, weights):
    own = model.state_dict()
    assert set(own) == set(weights)
    for name, x in weights.items():
        torch.testing.assert_close(own[name], x, rtol=0, atol=0)


@pytest.fixture
def refuse(tmp_path):
    """Load content that has to be refused, and return why; the model must stay as it was."""

    def try_to_load(model, content, **kwargs):
        path = tmp_path / "refused.pth"
        torch.save(content, path)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            reduction.load_checkpoint(model, path, **kwargs)
        assert_loaded(model, before)
        return str(error.value).removeprefix(f"{path} ")

    return try_to_load


# What is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", reduction.METHODS)
def test_our_own_files(make_host, small_images, tmp_path, method):
    trained, fresh = reduced(make_host(), method), reduced(make_host(), method)
    trained.load_state_dict(other_weights(trained))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    info = reduction.load_checkpoint(fresh, tmp_path / "model.safetensors")
    assert torch.equal(fresh.eval()(small_images), trained.eval()(small_images))
    assert info == reduction.CheckpointInfo(
        format="state dict",
        weights="plain",
        epoch=None,
        accuracy=None,
        arguments={},
        resized=(),
        left_out=(),
    )


def test_a_loaded_host_is_the_host_of_its_reduced_model(small_host, tmp_path):
    weights = other_weights(small_host)
    torch.save({"model": weights}, tmp_path / "deit.pth")
    model = reduced(small_host, "sit")
    reduction.load_checkpoint(reduction.unreduce(model), str(tmp_path / "deit.pth"))
    assert model.head.bias.data_ptr() == small_host.head.bias.data_ptr()
    torch.testing.assert_close(model.head.bias.detach(), weights["head.bias"], rtol=0, atol=0)


LAYOUTS = {
    "bare": (lambda plain, ema: plain, "state dict", "plain", ()),
    "compiled": (
        lambda plain, ema: {f"_orig_mod.module.{name}": x for name, x in plain.items()},
        "state dict",
        "plain",
        (),
    ),
    "timm": (
        lambda plain, ema: {"arch": "vit", "state_dict": plain, "optimizer": {}, "metric": 71.5},
        "timm",
        "plain",
        ("arch", "optimizer"),
    ),
    "timm with average": (
        lambda plain, ema: {"state_dict": plain, "state_dict_ema": ema, "metric": 71.5},
        "timm",
        "ema",
        ("state_dict",),
    ),
    "DeiT": (lambda plain, ema: {"model": plain}, "deit", "plain", ()),
    "EViT": (
        lambda plain, ema: {
            "model": plain,
            "model_ema": ema,
            "epoch": 4,
            "args": argparse.Namespace(base_keep_rate=0.7, fuse_token=True),
        },
        "evit",
        "plain",
        ("model_ema",),
    ),
    "DynamicViT": (
        lambda plain, ema: {
            "model": plain,
            "model_ema": ema,
            "epoch": "best",
            "best": 71.5,
            "best_ema": 0.0,
        },
        "dynamicvit",
        "plain",
        ("model_ema",),
    ),
    "DynamicViT with the average as its best": (
        lambda plain, ema: {
            "model": plain,
            "model_ema": ema,
            "epoch": "best-ema",
            "best": 70.0,
            "best_ema": 71.5,
        },
        "dynamicvit",
        "ema",
        ("model",),
    ),
    "published study": (
        lambda plain, ema: {
            "model": {f"module.{name}": x for name, x in plain.items()},
            "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"betas": (0.9, 0.999)}]},
            "model_ema": ema,
            "scaler": None,
            "args": ARGUMENTS,
            "ema_best": False,
        },
        "token-reduction",
        "plain",
        ("optimizer", "model_ema", "scaler"),
    ),
    "published study with the average as its best": (
        lambda plain, ema: {
            "model": plain,
            "model_ema": {f"module.{name}": x for name, x in ema.items()},
            "ema_best": np.bool_(True),
        },
        "token-reduction",
        "ema",
        ("model",),
    ),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(("layout", "form", "kind", "left_out"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(small_host, tmp_path, layout, form, kind, left_out, zipped):
    model = reduced(small_host)
    plain = other_weights(model)
    ema = {name: x + 1 for name, x in plain.items()}
    content = layout(plain, ema)
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    info = reduction.load_checkpoint(model, tmp_path / "a.pth")
    assert_loaded(model, ema if kind == "ema" else plain)
    assert (info.format, info.weights, info.left_out) == (form, kind, left_out)
    assert info.epoch == (4 if form == "evit" else None)
    assert info.accuracy == (71.5 if form in ("timm", "dynamicvit") else None)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("method", PUBLISHED)
def test_published_extras_give_the_reference_logits(
    method,
    averaged,
    reference_host,
    reference_images,
    reference_cases,
    reference_extras,
    tmp_path,
):
    reference, modules, layers = PUBLISHED[method]
    model = reduction.reduce(copy.deepcopy(reference_host), method, keep_rate=0.7)
    weights = dict(reference_host.state_dict())
    for name, x in reference_extras.items():
        prefix, stage, layer, parameter = re.fullmatch(
            r"(\w+)\.stage(\d)\.(\w+)(.*)", name
        ).groups()
        if prefix == reference and int(stage) < 3:
            target = model.get_parameter(f"stages.{stage}.{layer}{parameter}")
            published = f"{modules}.{stage}.{layers.get(layer, layer)}{parameter}"
            weights[published] = x[: target.shape[0]]  # stored for the largest keep rate
    wrong = {name: x + 1 for name, x in weights.items()}
    content = {"model": wrong, "model_ema": weights} if averaged else {"model": weights}
    torch.save({**content, "epoch": 29, "ema_best": averaged}, tmp_path / "best_checkpoint.pth")

    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    info = reduction.load_checkpoint(model, tmp_path / "best_checkpoint.pth")
    assert (info.weights, info.epoch) == ("ema" if averaged else "plain", 29)
    with torch.no_grad():
        logits = model(reference_images)
    expected = reference_cases[f"{reference}/kr0.70/loc3-6-9/logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=5e-5)


def test_arguments_become_plain_values(small_host, tmp_path):
    model = reduced(small_host)
    arguments = argparse.Namespace(
        lr=np.float64(1e-3),
        epochs=np.int64(30),
        ema=np.bool_(True),
        data=pathlib.Path("data/images"),
        betas=(0.9, 0.999),
        mixup=None,
        nested={"name": ["a", np.float32(0.5)]},
    )
    torch.save({"model": other_weights(model), "args": arguments}, tmp_path / "a.pth")
    info = reduction.load_checkpoint(model, tmp_path / "a.pth")
    assert info.arguments == {
        "lr": 1e-3,
        "epochs": 30,
        "ema": True,
        "data": "data/images",
        "betas": [0.9, 0.999],
        "mixup": None,
        "nested": {"name": ["a", 0.5]},
    }
    assert [type(info.arguments[name]) for name in ("lr", "epochs", "ema")] == [float, int, bool]
    assert "'epochs': 30" in str(info)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"numpy._core.multiarray", b"numpy.core.multiarray"),
        (b"pathlib\nPosixPath", b"pathlib\nWindowsPath"),
        (b"pathlib\nPosixPath", b"pathlib._local\nPosixPath"),
    ],
)
def test_values_saved_by_other_versions_and_systems(small_host, tmp_path, old, new):
    model, path = reduced(small_host), tmp_path / "a.pth"
    arguments = argparse.Namespace(lr=np.float64(0.5), data=pathlib.PosixPath("images"))
    content = {"model": other_weights(model), "args": arguments}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    info = reduction.load_checkpoint(model, path)
    assert info.arguments == {"lr": 0.5, "data": "images"}


def test_what_a_user_allows_stays_allowed(small_host, tmp_path):
    torch.save({"model": small_host.state_dict()}, tmp_path / "a.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        reduction.load_checkpoint(small_host, tmp_path / "a.pth")
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert not {argparse.Namespace, np.dtype} & set(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("no_embed_class", [False, True])
def test_position_embeddings_are_resampled(make_host, tmp_path, no_embed_class):
    saved = make_host(img_size=24, no_embed_class=no_embed_class)
    model = reduced(make_host(no_embed_class=no_embed_class))
    torch.save({"model": saved.state_dict()}, tmp_path / "a.pth")
    info = reduction.load_checkpoint(model, tmp_path / "a.pth")
    assert info.resized == ("pos_embed",)
    expected = resample_abs_pos_embed(
        saved.pos_embed, [5, 7], num_prefix_tokens=0 if no_embed_class else 1
    )
    torch.testing.assert_close(model.pos_embed, expected, rtol=0, atol=0)


# What is refused ---------------------------------------------------------------------------


def test_every_parameter_must_be_there_and_no_other(small_host, refuse):
    model = reduced(small_host, "sit")
    weights = other_weights(model)
    for name in ("stages.0.scale", "norm.bias"):
        del weights[name]
    weights["cluster_layers.0.norm.extra"] = torch.zeros(1)
    weights["blocks.0.attn.qkv.bias"] = torch.zeros(3)
    assert refuse(model, {"model": weights}) == (
        "does not fit the model: 2 missing (norm.bias, stages.0.scale), "
        "1 unexpected (stages.0.norm.extra), "
        "1 of another shape (blocks.0.attn.qkv.bias [3], but must be [96])"
    )


def test_long_lists_are_cut_short(make_host, refuse):
    message = refuse(reduced(make_host(depth=3)), make_host(depth=4).state_dict())
    assert message == (
        "does not fit the model: 12 unexpected "
        "(blocks.3.norm1.weight, blocks.3.norm1.bias, blocks.3.attn.qkv.weight, ...)"
    )


@pytest.mark.parametrize("classes", [0, 3])
def test_another_number_of_classes(make_host, refuse, classes):
    message = refuse(reduced(make_host()), {"model": make_host(num_classes=classes).state_dict()})
    assert message.endswith(f"; build the model with num_classes={classes}")


def test_weights_of_a_host_alone(small_host, refuse):
    message = refuse(reduced(small_host, "patchmerger"), {"model": other_weights(small_host)})
    assert message == (
        "does not fit the model: 6 missing "
        "(stages.0.queries, stages.0.norm.weight, stages.0.norm.bias, ...); "
        "the weights of a host alone go into reduction.unreduce(model)"
    )


@pytest.mark.parametrize(("kept", "without"), [(True, ""), (False, "out")])
def test_a_distillation_token_more_or_less(make_host, refuse, kept, without):
    plain, distilled = make_host(), make_host(model_class=VisionTransformerDistilled)
    model, other = (plain, distilled) if kept else (distilled, plain)
    message = refuse(reduced(model), {"model": reduced(other).state_dict()})
    assert message.startswith(f"does not fit the model: 3 {'unexpected' if kept else 'missing'} (")
    assert message.endswith(
        f"; it is of a host with{without} a distillation token (timm's *_distilled_*)"
    )


@pytest.mark.parametrize("patches", [-1, 35 - 1])
def test_position_embeddings_of_no_square_grid(small_host, refuse, patches):
    weights = other_weights(small_host) | {"pos_embed": torch.zeros(1, patches + 1, 32)}
    shape = f"[1, {patches + 1}, 32]"
    assert refuse(small_host, weights) == (
        f"does not fit the model: 1 of another shape (pos_embed {shape}, but must be [1, 36, 32])"
    )


@pytest.mark.parametrize("bias", [torch.zeros(10, dtype=torch.int64), torch.zeros(10).to_sparse()])
def test_parameters_that_are_no_plain_numbers(small_host, refuse, bias):
    content = other_weights(small_host) | {"head.bias": bias}
    message = refuse(small_host, content, allow_code=True)  # torch warns of sparse ones without
    assert message == "does not fit the model: 1 not of floating-point numbers (head.bias)"


NO_CHECKPOINTS = {
    "list": ([1, 2], "holds a list, but must hold a state dict"),
    "nothing": ({}, "holds nothing, but must hold a state dict as state_dict or model"),
    "other entries": (
        {"teacher": {}, "epoch": 3, "args": None, "optimizer": {}},
        "holds teacher, epoch, args, ..., but must hold a state dict as state_dict or model",
    ),
    "no tensors": (
        {"model": {"head.bias": [0.0]}},
        "holds model, but must hold a state dict as state_dict or model",
    ),
    "no average": (
        {"model": {"head.bias": torch.zeros(1)}, "model_ema": None, "ema_best": True},
        "holds model, model_ema, ema_best, but must hold a state dict as state_dict_ema or "
        "model_ema",
    ),
}


@pytest.mark.parametrize(("content", "message"), NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_files_without_weights(small_host, refuse, content, message):
    assert refuse(small_host, content) == message


class Attack:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_is_refused_and_not_run(small_host, tmp_path, zipped):
    path, trace = tmp_path / "a.pth", tmp_path / "attacked"
    content = {"model": small_host.state_dict(), "args": Attack(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"asks for posix\.mkdir, but must hold data alone"):
        reduction.load_checkpoint(small_host, path)
    assert not trace.exists()


def test_code_that_a_user_trusts(small_host, refuse, tmp_path):
    arguments = argparse.Namespace(rate=fractions.Fraction(1, 2))
    content = {"model": other_weights(small_host), "args": arguments}
    assert refuse(small_host, content) == (
        "asks for fractions.Fraction, but must hold data alone; allow_code=True runs what it asks "
        "for, if you trust where the file is from"
    )
    torch.save(content, tmp_path / "a.pth")
    info = reduction.load_checkpoint(small_host, tmp_path / "a.pth", allow_code=True)
    assert info.arguments == {"rate": "1/2"}
    assert_loaded(small_host, content["model"])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_torn_files(small_host, tmp_path, kind, share):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        save_file(small_host.state_dict(), path)
    else:
        torch.save(small_host.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    before = other_weights(small_host)
    small_host.load_state_dict(before)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is no readable checkpoint"):
        reduction.load_checkpoint(small_host, path)
    assert_loaded(small_host, before)


def test_a_flipped_bit(small_host, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(small_host.state_dict(), path)
    data = bytearray(path.read_bytes())
    data[data.index(small_host.head.bias.detach().numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"\(BadZipFile: the checksum of a/data/\d+ is wrong\)$"):
        reduction.load_checkpoint(small_host, path)


@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04", bytes(range(256))])
def test_files_of_another_kind(small_host, tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is no readable checkpoint"):
        reduction.load_checkpoint(small_host, path)


def test_no_file(small_host, tmp_path):
    for path in (tmp_path, tmp_path / "a.pth"):
        message = f"checkpoint is '{path}', but must be an existing file"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            reduction.load_checkpoint(small_host, path)


def test_no_model(tmp_path):
    with pytest.raises(TypeError, match=r"^model is a Linear, but must be a timm VisionTransform"):
        reduction.load_checkpoint(torch.nn.Linear(2, 2), tmp_path / "a.pth")
