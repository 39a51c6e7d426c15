"""Attention biases by displacement, of the tokens that each image has left."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RelativeBias:
    """What the blocks of a host add to their logits for two patches at some displacement.

    A merged token counts as the patch that is nearest to its place.
    """

    grid: tuple[int, int]
    """Rows and columns of the patches."""
    num_prefix: int
    """P."""
    start: Tensor = field(repr=False)
    """[B, N0, 2] float, row and column of each patch."""
    shared: Tensor | None = field(default=None, repr=False)
    """[1, H, P + N0, P + N0] what all blocks add; None where each has its own."""

    def at(self, attention: Any, coordinates: Tensor) -> Tensor | None:
        """Return the biases [B, H, P + N, P + N] of tokens at `coordinates` [B, N, 2], if any."""
        tables = [table for table in (_own(attention), self.shared) if table is not None]
        if not tables:
            return None
        table = sum(tables[1:], tables[0])
        if coordinates is self.start:
            return table
        rows, columns = coordinates.round().long().unbind(-1)
        patches = rows * self.grid[1] + columns + self.num_prefix
        prefix = torch.arange(self.num_prefix, device=patches.device)
        index = torch.cat((prefix.expand(patches.shape[0], -1), patches), dim=1)
        return table[0][:, index[:, :, None], index[:, None]].transpose(0, 1)


def _own(attention: Any) -> Tensor | None:
    """Return what an attention itself adds, [1, H, P + N0, P + N0]."""
    bias: Tensor | None = None
    if getattr(attention, "rel_pos", None) is not None:
        bias = attention.rel_pos.get_bias()
    elif getattr(attention, "relative_position_bias_table", None) is not None:
        bias = attention._get_rel_pos_bias()
    return bias
