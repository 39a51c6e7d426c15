"""Rotary position embeddings of tokens wherever they are, between patches too."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from timm.layers import (
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    RotaryEmbeddingMRope,
)
from timm.layers.pos_embed_sincos import _build_grid
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rope:
    """What the attention of one block rotates queries and keys by.

    Angles are affine in a token's row and column, so that a merged token, which stands at the mean
    place of its patches, has the mean of their angles.
    """

    module: Any
    """One of timm's `RotaryEmbedding...`, of the kinds in `ANGLES`."""
    grid: tuple[int, int]
    """Rows and columns of the patches."""
    start: Tensor = field(repr=False)
    """[B, N0, 2] float, row and column of each patch."""
    tables: Tensor = field(repr=False)
    """[N0, 2 * D] sines and cosines of the patches, or [depth, H, N0, 2 * D]."""
    block: int = 0
    coordinates: Tensor | None = None
    """[B, N, 2] places that `table` is of."""
    table: Tensor | None = None

    @property
    def mixed(self) -> bool:
        """Whether every block and head has frequencies of its own."""
        return isinstance(self.module, RotaryEmbeddingMixed)

    def enter(self, block: int, coordinates: Tensor) -> Self:
        """Return what `block` needs, into which tokens come from `coordinates` [B, N, 2]."""
        if coordinates is self.coordinates and not self.mixed:
            return self
        there = replace(self, block=block, coordinates=None)
        return replace(there, coordinates=coordinates, table=there.at(coordinates))

    def at(self, coordinates: Tensor) -> Tensor:
        """Return sines and cosines at `coordinates` [B, N, 2], [..., N, 2 * D] for all heads."""
        if coordinates is self.coordinates and self.table is not None:
            return self.table
        if coordinates is self.start:
            return self.tables[self.block] if self.mixed else self.tables
        angles = ANGLES[type(self.module)](self.module, self._places(coordinates), self.block)
        if getattr(self.module, "rotate_half", isinstance(self.module, RotaryEmbeddingMRope)):
            angles = torch.cat((angles, angles), dim=-1)
        else:
            angles = angles.repeat_interleave(2, dim=-1)
        table = torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.tables.dtype)
        return table if self.mixed else table[:, None]

    def _places(self, coordinates: Tensor) -> Tensor:
        """Return coordinates in the units of the host's own grid."""
        module = self.module
        grid = _build_grid(
            list(self.grid),
            grid_type=_grid_type(module),
            ref_feat_shape=getattr(module, "ref_feat_shape", None),
            grid_offset=getattr(module, "grid_offset", 0.0),
            grid_indexing=module.grid_indexing,
            normalize_coords=getattr(module, "normalize_coords", "separate"),
            device=coordinates.device,
        )
        down, right = (
            grid[place] - grid[0, 0] if side > 1 else torch.zeros_like(grid[0, 0])
            for place, side in zip(((-1, 0), (0, -1)), self.grid, strict=True)
        )
        rows, columns = (
            coordinates[..., axis, None] / max(side - 1, 1) for axis, side in enumerate(self.grid)
        )
        return grid[0, 0] + rows * down + columns * right


def _grid_type(module: Any) -> str:
    kind = "centered" if isinstance(module, RotaryEmbeddingDinoV3) else "index"
    return getattr(module, "grid_type", kind)


def _axial(module: Any, places: Tensor, block: int) -> Tensor:
    return (places[..., None] * module.bands).flatten(-2)


def _periodic(module: Any, places: Tensor, block: int) -> Tensor:
    return (2 * math.pi * places[..., None] / module.periods).flatten(-2)


def _multimodal(module: Any, places: Tensor, block: int) -> Tensor:
    axes = torch.cat((torch.zeros_like(places[..., :1]), places), dim=-1)
    return axes[..., module.axis] * module.inv_freq


def _mixed(module: Any, places: Tensor, block: int) -> Tensor:
    first, second = module.freqs[:, block, :, None].float()  # [H, 1, D / 2] each
    return places[:, None, :, :1] * first + places[:, None, :, 1:] * second


ANGLES: dict[type, Callable[[Any, Tensor, int], Tensor]] = {
    RotaryEmbeddingCat: _axial,
    RotaryEmbeddingDinoV3: _periodic,
    RotaryEmbeddingMRope: _multimodal,
    RotaryEmbeddingMixed: _mixed,
}
"""Angles [B, N, D / 2], or [B, H, N, D / 2], at places [B, N, 2] in a block."""
