"""Global patterns of one cell: how deep patches live, and how many tokens each stage leaves."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from analysis.aliases import Row
from analysis.comparisons import mean_std
from analysis.patterns import kept_masks
from analysis.records import CellArtifacts


def token_depth(
    kept: Mapping[int, np.ndarray], num_patches: int, num_blocks: int
) -> NDArray[np.unsignedinteger]:
    """Depth of every patch: the block at which it was dropped, `num_blocks` if it never was.

    Args:
        kept: Patches kept at each stage, block -> [M, K], padded with values outside
            0..num_patches-1; at least one stage.
        num_patches: N.
        num_blocks: Number of transformer blocks.

    Returns:
        Depths, [M, N] in 0..num_blocks, as narrow as can be.
    """
    blocks = sorted(kept)
    narrow = np.min_scalar_type(num_blocks).type
    alive = np.ones((len(kept[blocks[0]]), num_patches), dtype=np.bool_)
    depth = np.full(alive.shape, blocks[0], dtype=narrow)
    for block, following in pairwise([*blocks, num_blocks]):
        alive &= kept_masks(kept[block], num_patches)
        depth += alive * narrow(following - block)
    return depth


def cell_depth(cell: CellArtifacts) -> NDArray[np.unsignedinteger] | None:
    """Depth of every patch of every image of a cell, [M, N0]; None for methods that merge only."""
    if cell.kept:
        return token_depth(cell.kept, cell.num_patches, cell.depth)
    if cell.groups:
        return None
    return np.full(
        (len(cell.images), cell.num_patches), cell.depth, dtype=np.min_scalar_type(cell.depth)
    )


def depth_maps(
    depth: np.ndarray, grid: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and population standard deviation over images of every patch's depth.

    Args:
        depth: Depths from `token_depth`, [M, rows * columns].
        grid: Rows and columns of patches.

    Returns:
        Two maps, [rows, columns], in blocks.
    """
    return depth.mean(axis=0).reshape(grid), depth.std(axis=0).reshape(grid)


def distinct_labels(labels: np.ndarray) -> NDArray[np.int64]:
    """Number of different values in every row of [M, N]: the non-empty groups of a partition."""
    ordered = np.sort(labels, axis=1)
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)


def share_left(cell: CellArtifacts, block: int) -> NDArray[np.float64]:
    """Share of the patches that stage `block` leaves of each image, [M] in [0, 1].

    Distinct kept patches where the method keeps patches, else non-empty groups, else (for a
    model without reduction) live tokens; each divided by N0.
    """
    if block in cell.kept:
        left = kept_masks(cell.kept[block], cell.num_patches).sum(axis=1)
    elif block in cell.groups:
        left = distinct_labels(cell.groups[block])
    else:
        left = cell.tokens[block]
    return left / cell.num_patches


def describe_tokens(cell: CellArtifacts) -> dict[str, list[Row]]:
    """Return what a cell adds to the tables `tokens` and `depth_maps`, but for its identity.

    Methods that merge only have no token depth, and nothing to add to `depth_maps`.
    """
    depth = cell_depth(cell)
    images = {"images": len(cell.images)}
    rows = {"tokens": list(_stage_rows(cell)), "depth_maps": []}
    if depth is None:
        note = "groups alone do not tell at which block a patch is dropped"
        rows["tokens"].append({"note": note})
    else:
        rows["tokens"].append(mean_std("depth", depth))
        rows["depth_maps"] = list(_patch_rows(*depth_maps(depth, cell.grid)))
    return {table: [row | images for row in made] for table, made in rows.items()}


def _stage_rows(cell: CellArtifacts) -> Iterator[Row]:
    for block, left in cell.tokens.items():
        share = mean_std("share_left", share_left(cell, block))
        yield {"stage": block} | mean_std("tokens", left) | share


def _patch_rows(mean: np.ndarray, std: np.ndarray) -> Iterator[Row]:
    for (row, column), value in np.ndenumerate(mean):
        place = {"row": row, "column": column}
        yield place | {"depth_mean": float(value), "depth_std": float(std[row, column])}
