"""Hosts: the Vision Transformers that a cell starts from, and the cell's reduced model."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import VisionTransformer, is_model_in_modules
from timm.models._hub import load_model_config_from_path
from torch import nn

import reduction
from reduction.model import ReducedVisionTransformer
from trainables.cell import Cell
from trainables.data.transforms import Channels

DEMO_HOSTS: dict[str, dict[str, int]] = {
    "digits_tiny_patch4_32": {"embed_dim": 32, "num_heads": 2},
    "digits_small_patch4_32": {"embed_dim": 48, "num_heads": 3},
}
"""DeiT-shaped hosts whose weights lie in the package (made by `experiments/pretrain_demo.py`)."""

DEMO_SHAPE = {"patch_size": 4, "depth": 12, "mlp_ratio": 4.0, "qkv_bias": True}
DEMO_CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
"""What timm is told of them; `DEMO_SHAPE` and a row of `DEMO_HOSTS` change the architecture."""

VIT_MODULES = ("deit", "vision_transformer", "vision_transformer_hybrid")
"""Modules of timm whose models are `VisionTransformer`s."""

LOCAL = "local-dir:"
"""Prefix of a folder with `config.json` and weights, as the Hugging Face hub keeps a model."""

IMAGENET_CLASSES = 1000
WEIGHTS_FOLDER = Path(__file__).parent / "hosts"


def build_host(
    name: str,
    *,
    num_classes: int,
    dataset: str | None = None,
    pretrained: bool = True,
    image_size: int = 224,
    drop_path: float = 0.0,
) -> VisionTransformer:
    """Build an unreduced host for a dataset.

    The classification head is kept only where the host was trained on `dataset`; otherwise it
    starts anew from the global random generator. The position embedding is resampled where
    `image_size` is not the host's own.

    Args:
        name: A timm model, one of `DEMO_HOSTS`, or `local-dir:FOLDER` for a folder with
            `config.json` and weights, as the Hugging Face hub keeps a model.
        num_classes: Outputs of the head.
        dataset: Name of the dataset the host is to be used on.
        pretrained: Load the host's weights; False starts from random ones.
        image_size: Side of the square input, in pixels.
        drop_path: Stochastic depth rate of the last block, in [0, 1].

    Raises:
        ValueError: If the host is unknown or not a `VisionTransformer`.
        OSError: If pretrained weights can be neither read nor downloaded.
    """
    _config(name)  # refuses unknown hosts before anything is built
    vit = _create(
        name,
        pretrained=pretrained,
        num_classes=num_classes,
        img_size=image_size,
        drop_path_rate=drop_path,
    )
    if pretrained and dataset != _trained_on(name):
        _reset_head(vit)
    return vit


def build_model(
    cell: Cell, num_classes: int, *, pretrained: bool | None = None
) -> ReducedVisionTransformer:
    """Build the reduced model a cell trains; whatever starts at random follows its seed.

    Args:
        cell: Names host, method and image size.
        num_classes: Outputs of the head.
        pretrained: Load the host's weights; None leaves it to the recipe.
    """
    recipe = cell.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        vit = build_host(
            cell.host,
            num_classes=num_classes,
            dataset=cell.dataset,
            pretrained=recipe.pretrained if pretrained is None else pretrained,
            image_size=recipe.image_size,
            drop_path=recipe.drop_path,
        )
        return reduction.reduce(
            vit,
            cell.method,
            keep_rate=cell.keep_rate,
            reduction_loc=cell.reduction_loc,
            **cell.options,
        )


def host_mean_std(name: str) -> tuple[Channels, Channels]:
    """Return the per-channel mean and standard deviation of pixels in [0, 1] a host expects."""
    config = _config(name)
    return tuple(config["mean"]), tuple(config["std"])


def _config(name: str) -> dict[str, Any]:
    """Return what timm knows of a host's pretrained weights.

    Raises:
        ValueError: If the host is unknown, or not a `VisionTransformer`.
        OSError: If a local folder has no configuration.
    """
    if name in DEMO_HOSTS:
        return DEMO_CONFIG | {"file": str(WEIGHTS_FOLDER / f"{name}.safetensors")}
    if name.startswith(LOCAL):
        return load_model_config_from_path(name.removeprefix(LOCAL))[0]
    try:
        known = is_model_in_modules(name.partition(".")[0], VIT_MODULES)
        config = timm.get_pretrained_cfg(name).to_dict() if known else None
    except RuntimeError:  # the tag after the dot is unknown
        config = None
    if config is None:
        raise ValueError(
            f"host is {name!r}, but must be a VisionTransformer of timm, {LOCAL}FOLDER, or one of "
            f"{', '.join(DEMO_HOSTS)}"
        )
    return config


def _create(name: str, **arguments: Any) -> VisionTransformer:
    if name in DEMO_HOSTS:
        arguments |= DEMO_SHAPE | DEMO_HOSTS[name]
        arguments |= {"model_name": DEMO_CONFIG["architecture"], "pretrained_cfg": _config(name)}
    try:
        return timm.create_model(**{"model_name": name} | arguments)
    except OSError as error:
        cause = str(error).partition("\n")[0]
        raise OSError(f"host {name}: its pretrained weights cannot be had ({cause})") from error


def _trained_on(name: str) -> str | None:
    """Return the dataset whose classes a pretrained host's head tells apart, where known."""
    if name in DEMO_HOSTS:
        record = json.loads((WEIGHTS_FOLDER / f"{name}.json").read_text())
        return str(record["dataset"])
    return "imagenet" if _config(name)["num_classes"] == IMAGENET_CLASSES else None


def _reset_head(vit: VisionTransformer) -> None:
    for name, parameter in vit.named_parameters():
        if name.startswith("head") and parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.startswith("head"):
            nn.init.zeros_(parameter)
