"""Hosts: the Vision Transformers that a cell starts from, and the cell's reduced model."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import VisionTransformer
from torch import nn

import reduction
from reduction.checkpoints import load_weights, num_classes_of, read_weights
from reduction.model import ReducedVisionTransformer
from trainables.cell.cell import Cell
from trainables.data.transforms import Channels
from trainables.models.host_source import HostSource, TimmArguments


def build_host(
    name: str,
    *,
    num_classes: int,
    dataset: str | None = None,
    pretrained: bool = True,
    image_size: int = 224,
    drop_path: float = 0.0,
    weights: Path | None = None,
) -> VisionTransformer:
    """Build an unreduced host for a dataset.

    The classification head is kept only where the host was trained on `dataset` and has as many
    classes; otherwise it starts anew from the global random generator, whose only draws these
    are where the host is pretrained. The position embedding is resampled where `image_size` is
    not the host's own.

    Args:
        name: A name that `HostSource.find` knows.
        num_classes: Outputs of the head.
        dataset: Name of the dataset the host is to be used on.
        pretrained: Load the host's weights; False starts from random ones.
        image_size: Side of the square input, in pixels.
        drop_path: Stochastic depth rate of the last block, in [0, 1].
        weights: Folder of pretrained weights, see `HostSource.find`.

    Raises:
        ValueError: If the host is unknown or not a `VisionTransformer`, or a file of weights
            cannot be read or does not fit it.
        OSError: If pretrained weights can be neither found nor downloaded.
    """
    source = HostSource.find(name, weights)
    arguments = {"img_size": image_size, "drop_path_rate": drop_path}
    if not pretrained:
        return _create(source, num_classes=num_classes, **arguments)
    with torch.random.fork_rng(devices=[]):  # The weights replace whatever is drawn here.
        build = _from_file if source.candidates else _from_timm
        vit = build(source, arguments)
        keeps_head = dataset == source.trained_on and vit.num_classes == num_classes
        if vit.num_classes != num_classes:
            vit.reset_classifier(num_classes)
    if not keeps_head:
        _reset_head(vit)
    return vit


def build_model(
    cell: Cell, num_classes: int, *, pretrained: bool | None = None, weights: Path | None = None
) -> ReducedVisionTransformer:
    """Build the reduced model a cell trains; whatever starts at random follows its seed.

    Args:
        cell: Names host, method and image size.
        num_classes: Outputs of the head.
        pretrained: Load the host's weights; None leaves it to the recipe.
        weights: Folder of pretrained weights, see `HostSource.find`.
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
            weights=weights,
        )
        return reduction.reduce(
            vit,
            cell.method,
            **cell.amount._asdict(),
            reduction_loc=cell.reduction_loc,
            **cell.options,
        )


def host_mean_std(name: str, weights: Path | None = None) -> tuple[Channels, Channels]:
    """Return the per-channel mean and standard deviation of pixels in [0, 1] a host expects."""
    config = HostSource.find(name, weights).config
    return tuple(config["mean"]), tuple(config["std"])


def _from_file(source: HostSource, arguments: TimmArguments) -> VisionTransformer:
    """Build a host with the classes of its file and load all of that, safely."""
    if source.file is None:
        raise OSError(f"host {source.name}: its pretrained weights are missing: {source.problem()}")
    weights = read_weights(source.file)
    vit = _create(source, num_classes=num_classes_of(weights), **arguments)
    load_weights(vit, weights, source.file)
    return vit


def _from_timm(source: HostSource, arguments: TimmArguments) -> VisionTransformer:
    try:
        return _create(source, pretrained=True, **arguments)
    except OSError as error:
        cause = str(error).partition("\n")[0]
        name = source.name
        raise OSError(f"host {name}: its pretrained weights cannot be had ({cause})") from error


def _create(source: HostSource, **arguments: Any) -> VisionTransformer:
    return timm.create_model(
        **{"model_name": source.architecture} | source.arguments | arguments,
        pretrained_cfg=None if source.architecture == source.name else source.config,
    )


def _reset_head(vit: VisionTransformer) -> None:
    for name, parameter in vit.named_parameters():
        if name.startswith("head") and parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.startswith("head"):
            nn.init.zeros_(parameter)
