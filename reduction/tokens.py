"""What travels through a reduced model: the tokens and what is known about them.

Shapes, here and in all methods: B images, P prefix tokens (CLS, distillation, registers), N patch
tokens at this point of the model, N0 patch tokens before any reduction, C channels, H heads,
D channels of a head.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from reduction.trace import Recorder


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """The residual stream with the facts that belong to its tokens; never changed in place."""

    x: Tensor
    """[B, P + N, C] residual stream, prefix tokens first."""
    num_prefix: int
    """P."""
    num_patches: int
    """N0."""
    grid: tuple[int, int]
    """Rows and columns of the grid of original patches."""
    sizes: Tensor | None = None
    """[B, N] float, original patches each token stands for; None where the method counts none."""
    mask: Tensor | None = None
    """[B, N] bool, False for padding; None where all tokens are real."""
    key_bias: Tensor | None = None
    """[B, P + N] float, added to the attention logits of each key; None for zeros."""
    recorder: Recorder | None = None
    """Takes note of what is kept and merged; None where no trace was asked for."""

    @property
    def prefix(self) -> Tensor:
        """[B, P, C] prefix tokens."""
        return self.x[:, : self.num_prefix]

    @property
    def patches(self) -> Tensor:
        """[B, N, C] patch tokens."""
        return self.x[:, self.num_prefix :]

    @property
    def count(self) -> int:
        """N, padding included."""
        return self.x.shape[1] - self.num_prefix

    def with_patches(self, patches: Tensor) -> Self:
        """Return the same prefix tokens followed by `patches` [B, N', C]."""
        return replace(self, x=torch.cat((self.prefix, patches.to(self.x.dtype)), dim=1))

    def attention_mask(self) -> Tensor | None:
        """[B, 1, 1, P + N] bias for `scaled_dot_product_attention`, or None."""
        if self.key_bias is None:
            return None
        return self.key_bias[:, None, None].to(self.x.dtype)

    def live(self) -> Tensor:
        """[B] integer, patch tokens that are not padding."""
        if self.mask is not None:
            return self.mask.sum(dim=1)
        return self.x.new_full((self.x.shape[0],), self.count, dtype=torch.int64)

    def pooling_weights(self) -> Tensor | None:
        """[B, P + N] weight of each token in an average over images parts, or None for equal."""
        weights = self.sizes if self.mask is None else self.mask.to(self.x.dtype)
        if weights is None:
            return None
        return torch.cat((weights.new_ones(weights.shape[0], self.num_prefix), weights), dim=1)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index` [B, K] of x [B, N, ...] as [B, K, ...]."""
    index = index.view(*index.shape, *(1,) * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the positions [B, count] of the largest scores [B, N], descending; first on ties."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]
