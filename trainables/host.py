"""Hosts: the Vision Transformers that a cell starts from, and the cell's reduced model."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import VisionTransformer
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
DEMO_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
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
        name: a timm model (also `local-dir:FOLDER` in timm's notation) or one of `DEMO_HOSTS`.
        num_classes: outputs of the head.
        dataset: name of the dataset the host is to be used on.
        pretrained: load the host's weights; False starts from random ones.
        image_size: side of the square input, in pixels.
        drop_path: stochastic depth rate of the last block, in [0, 1].

    Raises:
        ValueError: if timm does not know the host, or it is not a `VisionTransformer`.
        OSError: if pretrained weights can be neither read nor downloaded.
    """
    arguments = _demo_arguments(name) if name in DEMO_HOSTS else {"model_name": name}
    vit = _create(
        name,
        **arguments,
        pretrained=pretrained,
        num_classes=num_classes,
        img_size=image_size,
        drop_path_rate=drop_path,
    )
    if pretrained and dataset != _trained_on(name, vit):
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
    if name in DEMO_HOSTS:
        return DEMO_STATISTICS
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise ValueError(_unknown(name))
    return tuple(config.mean), tuple(config.std)


def _demo_arguments(name: str) -> dict[str, Any]:
    mean, std = DEMO_STATISTICS
    config = {
        "file": str(WEIGHTS_FOLDER / f"{name}.safetensors"),
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "mean": mean,
        "std": std,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    shape = DEMO_SHAPE | DEMO_HOSTS[name]
    return {"model_name": "vit_tiny_patch16_224", "pretrained_cfg": config, **shape}


def _create(name: str, **arguments: Any) -> VisionTransformer:
    base = arguments["model_name"]
    if ":" not in base and not timm.is_model(base.split(".")[0]):
        raise ValueError(_unknown(name))
    try:
        vit = timm.create_model(**arguments)
    except OSError as error:
        cause = str(error).splitlines()[0]
        raise OSError(f"host {name}: its pretrained weights cannot be had ({cause})") from error
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"host is {name!r}, a {type(vit).__name__}, but must be a ViT of timm")
    return vit


def _unknown(name: str) -> str:
    return f"host is {name!r}, but must be a model of timm or one of {sorted(DEMO_HOSTS)}"


def _trained_on(name: str, vit: VisionTransformer) -> str | None:
    """Return the dataset whose classes a pretrained host's head tells apart, where known."""
    if name in DEMO_HOSTS:
        record = json.loads((WEIGHTS_FOLDER / f"{name}.json").read_text())
        return str(record["dataset"])
    return "imagenet" if vit.pretrained_cfg["num_classes"] == 1000 else None


def _reset_head(vit: VisionTransformer) -> None:
    for name, parameter in vit.named_parameters():
        if name.startswith("head") and parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.startswith("head"):
            nn.init.zeros_(parameter)
