"""The multiply-accumulates that a cell's training takes, from the shapes of its models alone."""

from pathlib import Path

import torch
from timm.models import VisionTransformer

import reduction
from reduction.model import ReducedVisionTransformer
from trainables.cell.cell import Cell
from trainables.models.host import build_host

TRAINING_PASSES = 3
"""A backward pass costs about two forward passes."""


def training_macs_an_image(
    cell: Cell, host: VisionTransformer, model: ReducedVisionTransformer
) -> float:
    """Return what a cell's training computes for each image.

    Args:
        cell: What is trained; a teacher counts as one unreduced host.
        host: Its host before the reduction, on any device.
        model: Its model, on any device.
    """
    whole, reduced = (reduction.flops(network).macs for network in (host, model))
    trained = whole if any(stage.drops_none_in_training for stage in model.stages) else reduced
    if any(stage.trains_beside_fuller for stage in model.stages):
        trained += whole  # at most
    taught = whole if cell.recipe.distillation != "none" else 0
    return TRAINING_PASSES * trained + taught


def macs_of_model(cell: Cell, model: ReducedVisionTransformer, weights: Path | None) -> float:
    """Return what a cell's training computes for each image, from its model alone.

    Args:
        cell: What is trained.
        model: Its model, on any device.
        weights: Folder of the hosts' pretrained weights, whose configurations say what they are.
    """
    with torch.device("meta"):
        host = build_host(
            cell.host,
            num_classes=model.num_classes,
            pretrained=False,
            image_size=cell.recipe.image_size,
            weights=weights,
        )
    return training_macs_an_image(cell, host, model)
