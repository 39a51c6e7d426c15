"""Pictures of what a reduced model did to the tokens of images."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reduction.painting import DROPPED_OPACITY, GREY, WHITE, Pixels, painted, spread
from reduction.trace import ReductionTrace

GAP = 8
"""Pixels between the stages."""
PATCH = 16
"""Least side of a drawn patch in pixels: smaller images are enlarged by a whole number."""


def draw(images: Tensor, trace: ReductionTrace) -> list[Image.Image]:
    """Return a picture of every image: the image, then what each stage left, from left to right.

    Patches that are dropped are grey. Where tokens merge, every group has the mean colour of its
    patches. White lines show where kept patches or groups end.

    Args:
        images: [B, 1 or 3, height, width], as the model saw them: integers in 0..255 are shown as
            they are, others from black at an image's least value to white at its largest.
        trace: Of these images, from `forward_with_trace`.

    Raises:
        ValueError: The images are not those of the trace, have other numbers of channels, or
            patches are missing from the grid.
    """
    _check(images, trace)
    return [_strip(_rgb(image, trace.grid), trace, row) for row, image in enumerate(images)]


def _check(images: Tensor, trace: ReductionTrace) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        shape = list(images.shape)
        raise ValueError(f"images are {shape}, but must be [B, 1 or 3, height, width]")
    traced = next((len(count) for count in trace.tokens.values()), len(images))
    if traced != len(images):
        raise ValueError(f"there are {len(images)} images, but must be the {traced} of the trace")
    if math.prod(trace.grid) != trace.num_patches:
        raise ValueError("host has patch dropout, but must keep all patches for pictures")


def _rgb(image: Tensor, grid: tuple[int, int]) -> Pixels:
    """Return an image [1 or 3, height, width] as pixels, large enough to see its patches."""
    values = image.detach().cpu()
    if values.is_floating_point():
        values = values.float()
        least = values.min()
        values = ((values - least) / (values.max() - least).clamp(min=1e-12) * 255).round()
    scale = math.ceil(PATCH * max(grid[0] / image.shape[1], grid[1] / image.shape[2]))
    enlarged = values.to(torch.uint8).expand(3, -1, -1)
    for axis in (1, 2):
        enlarged = enlarged.repeat_interleave(scale, dim=axis)
    return enlarged.permute(1, 2, 0).numpy()


def _strip(pixels: Pixels, trace: ReductionTrace, row: int) -> Image.Image:
    gap = np.full((pixels.shape[0], GAP, 3), WHITE, dtype=np.uint8)
    parts = [pixels]
    for block in trace.stages:
        if block in trace.kept or block in trace.groups:  # of a model that reduces
            parts += [gap, _stage(pixels, trace, block, row)]
    return Image.fromarray(np.concatenate(parts, axis=1))


def _stage(pixels: Pixels, trace: ReductionTrace, block: int, row: int) -> Pixels:
    """Return an image with the stage at `block` painted over it."""
    if block in trace.groups:
        labels = trace.groups[block][row].cpu().numpy().reshape(trace.grid)
        colours, cover = _mean_colours(pixels, labels), np.ones(trace.grid)
    else:
        kept = trace.kept[block][row].cpu().numpy()
        flat = np.full(trace.num_patches, -1)
        flat[kept[kept >= 0]] = 0
        labels = flat.reshape(trace.grid)
        colours, cover = np.zeros((*trace.grid, 3)), np.zeros(trace.grid)
    dropped = labels < 0
    colours[dropped], cover[dropped] = GREY, DROPPED_OPACITY
    return painted(pixels, labels, colours, cover)


def _mean_colours(pixels: Pixels, labels: NDArray) -> NDArray[np.float64]:
    """Return the mean colour [rows, columns, 3] of the group that each patch is in."""
    _, groups = np.unique(labels, return_inverse=True)
    groups = groups.reshape(labels.shape)
    owners = spread(groups, pixels).ravel()
    channels = pixels.reshape(-1, 3).T
    sums = np.stack([np.bincount(owners, weights=channel) for channel in channels], axis=-1)
    means: NDArray[np.float64] = sums / np.bincount(owners)[:, None]
    return means[groups]
