"""A host's pooling over tokens that stand for different numbers of patches, or for none."""

from typing import cast

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

_WEIGHTS = WeakTensorKeyDictionary()
"""Features that `forward_features` returned -> [B, P + N] what each token counts, while they live.
timm's contract has only the features between `forward_features` and `forward_head`."""


def remember_weights(features: Tensor, weights: Tensor | None) -> None:
    """Note what the tokens of `features` [B, P + N, C] count, for `weights_of`."""
    if weights is not None:
        _WEIGHTS[features] = weights


def weights_of(features: Tensor) -> Tensor | None:
    """Return what the tokens of these very features count; None where all count the same."""
    if torch.compiler.is_compiling():
        return None
    return _WEIGHTS.get(features)


def mean_pool(x: Tensor, weights: Tensor) -> Tensor:
    """Return the means [B, C] of x [B, T, C], weighted by `weights` [B, T]."""
    # In training, no token at all may count: less than half of one is none.
    total = weights.sum(dim=1, keepdim=True).clamp(min=0.5)
    return (x * (weights / total)[..., None].to(x.dtype)).sum(dim=1)


def max_pool(x: Tensor, weights: Tensor) -> Tensor:
    """Return the maxima [B, C] over the tokens of x [B, T, C] with weights [B, T] above 0."""
    return x.masked_fill(weights[..., None] <= 0, -torch.inf).amax(dim=1)


def attention_pool(pool: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """Return what timm's `pool` makes of x [B, T, C], keys counted by `weights` [B, T].

    Other kinds than `AttentionPoolLatent` (timm's `prr`) take no weights: tokens count the same.
    """
    if not isinstance(pool, AttentionPoolLatent):
        return cast("Tensor", pool(x))
    # In training, all tokens may have been dropped.
    bias = weights.log() if not pool.training else weights.clamp(min=1e-6).log()
    return cast("Tensor", pool(x, attn_mask=bias[:, None, None].to(x.dtype)))
