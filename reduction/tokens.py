"""What travels through a reduced model: the tokens and what is known about them.

Shapes, here and in all methods: B images, P prefix tokens (CLS, distillation, registers), N patch
tokens at this point of the model, N0 patch tokens before any reduction, C channels, H heads,
D channels of a head.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from reduction.relative import RelativeBias
from reduction.rope import Rope
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
    proportional: bool = False
    """Whether `key_bias` weighs keys by their sizes."""
    coordinates: Tensor | None = None
    """[B, N, 2] float, row and column of each token on the grid, where the host looks at places
    in its blocks; a merged token is at the mean place of its patches."""
    rope: Rope | None = None
    """Rotary embeddings at the `coordinates`, where the host's attention has them."""
    relative: RelativeBias | None = None
    """Biases by displacement between `coordinates`, where the host's attention has them."""
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    """What a method hands on from stage to stage, by name; only its own plans change it."""
    attention_filter: Callable[[Tensor], Tensor] | None = None
    """Changes the attention [B, H, rows, P + N] of every block; None where none does."""
    policy: Tensor | None = None
    """[B, N] float, 1 for tokens kept and 0 for those dropped by a method that only masks them in
    training, with its gradient; None for all others."""
    received: Tensor | None = None
    """[B, N] attention that each token got from all in the block just run, summed over heads, for
    a stage that looks back at it; else None."""
    image_index: Tensor | None = None
    """[B] integer, index of each image in its data set; None where not given."""
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
        return int(self.x.shape[1]) - self.num_prefix

    def with_patches(self, patches: Tensor) -> Self:
        """Return the same prefix tokens followed by `patches` [B, N', C]."""
        return replace(self, x=torch.cat((self.prefix, patches.to(self.x.dtype)), dim=1))

    def attention_mask(self) -> Tensor | None:
        """[B, 1, 1, P + N] bias for `scaled_dot_product_attention`, or None."""
        if self.key_bias is None:
            return None
        return self.key_bias[:, None, None].to(self.x.dtype)

    def rotation(self) -> Tensor | None:
        """[..., N, 2 * D] sines and cosines that rotate queries and keys of the patch tokens."""
        if self.rope is None or self.coordinates is None:
            return None
        return self.rope.at(self.coordinates)

    def live(self) -> Tensor:
        """[B] integer, patch tokens that are not padding."""
        if self.mask is not None:
            return self.mask.sum(dim=1)
        return self.x.new_full((self.x.shape[0],), self.count, dtype=torch.int64)

    def weights(self) -> Tensor | None:
        """[B, P + N] how much each token counts, 0 for padding; None where all count the same."""
        weights = None
        for factor in (self.sizes, self.policy, self.mask):
            if factor is not None:
                weights = factor.to(self.x.dtype) if weights is None else weights * factor
        return None if weights is None else self.with_prefix(weights)

    def with_prefix(self, weights: Tensor) -> Tensor:
        """Return the weights [B, N] of the patch tokens after ones for the prefix tokens."""
        return torch.cat((weights.new_ones(weights.shape[0], self.num_prefix), weights), dim=1)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index` [B, K] of x [B, N, ...] as [B, K, ...]."""
    # Whole rows of a flat view: several times as fast as `gather`, which looks up each element.
    rows = x.flatten(0, 1).index_select(0, _flat(index, x.shape[1]).flatten())
    return rows.view(*index.shape, *x.shape[2:])


def _flat(index: Tensor, count: int) -> Tensor:
    """Return positions [B, K] within each image as positions among all B * count rows."""
    image = torch.arange(index.shape[0], device=index.device)
    return index + image[:, None] * count


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or float64 where it is that: what decisions are taken in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which products on x's device have the precision of what goes in."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the positions [B, count] of the largest scores [B, N], descending; first on ties."""
    if torch.onnx.is_in_onnx_export():  # ONNX has no stable sort, but its TopK is stable.
        return scores.topk(count, dim=1).indices
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]


def ranks(order: Tensor) -> Tensor:
    """Return the place [B, N] of each token in an `order` [B, N] of all of them, without a sort."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)


def distances(x: Tensor) -> Tensor:
    """Return the Euclidean distances [B, N, N] of the rows of x [B, N, C], at least float32.

    From their products, the fastest way, in float64: the expanded square loses half of the digits,
    and in float32 the rest would not tell which of two tokens is nearer.
    """
    wide = x.double()
    products = wide @ wide.mT
    squares = products.diagonal(dim1=1, dim2=2)
    squared = (squares[:, :, None] + squares[:, None, :]).sub_(products, alpha=2)
    return squared.clamp_(min=0).sqrt_().to(torch.promote_types(x.dtype, torch.float32))


def sum_by_group(x: Tensor, assignment: Tensor, num_groups: int) -> Tensor:
    """Return the sums [B, K, C] of the rows of x [B, N, C] that are `assignment` [B, N] to each."""
    batch, _, channels = x.shape
    sums = x.new_zeros(batch * num_groups, channels)
    sums.index_add_(0, _flat(assignment, num_groups).flatten(), x.flatten(0, 1))
    return sums.view(batch, num_groups, channels)


def weigh_keys(tokens: Tokens) -> Tokens:
    """Return the tokens as keys that count by their size if that is so, and not where padding.

    Proportional attention, Bolya et al., Token Merging, ICLR 2023, equation 1.
    """
    sizes = tokens.sizes if tokens.proportional else None
    weights = replace(tokens, sizes=sizes, policy=None).weights()
    return replace(tokens, key_bias=None if weights is None else weights.log())
