"""Learned numbers of tokens: how many DiffRate keeps, with a gradient through the counts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reduction.tokens import at_least_float32, without_autocast

GRANULARITY = 4
"""Patch tokens between two candidates."""


class LearnedCount(nn.Module):
    """How many tokens to keep, as a softmax over candidates (Chen et al., DiffRate, ICCV 2023).

    Args:
        num_patches: The largest candidate; the others are `GRANULARITY` less each.
        num_prefix: P, prefix tokens, which are always kept.
    """

    candidates: Tensor

    def __init__(self, num_patches: int, num_prefix: int) -> None:
        super().__init__()
        candidates = torch.arange(num_patches, 0, -GRANULARITY)
        self.register_buffer("candidates", candidates, persistent=False)
        self.logits = nn.Parameter(torch.zeros(len(candidates)))
        self.num_prefix = num_prefix
        self._read: tuple[tuple[int, int], int] | None = None

    def forward(self) -> Tensor:
        """Return the number of tokens, prefix included: a scalar, with its gradient."""
        mean = (self.logits.softmax(dim=0) * self.candidates).sum()
        return mean + (mean.ceil() - mean).detach() + self.num_prefix

    def number(self) -> int:
        """Return the number; the device is read only after it has changed.

        On the meta device, which has no values, the number that learning starts from.
        """
        if self.logits.is_meta:
            count = len(self.logits)
            return math.ceil(GRANULARITY * (count + 1) / 2) + self.num_prefix
        state = (id(self.logits), self.logits._version)
        if self._read is None or self._read[0] != state:
            with torch.no_grad():
                self._read = state, int(self())
        return self._read[1]

    def mask(self, live: Tensor, length: int) -> Tensor:
        """Return [length], 0 for the places from the number on to the last live one, else 1.

        The gradient is that of the probability that a place is kept, but none where the number is
        not below that of live tokens.

        Args:
            live: Scalar, so many places, the first, have live tokens.
            length: T, how many places there are.
        """
        places = torch.arange(length, device=self.logits.device)
        kept = places[:, None] < self.candidates + self.num_prefix
        probability = (kept * self.logits.softmax(dim=0)).sum(dim=1)
        number = self().detach()
        hard = ((places < number) | (places >= live)).to(probability.dtype)
        return torch.where(number < live, hard + (probability - probability.detach()), 1.0)


def merge_masked(
    x: Tensor, sizes: Tensor, sources: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return tokens [B, T, C] and sizes [B, T] after merging, with none taken away.

    Each source joins the most similar target, by cosine, in a plain mean. Its size counts times
    the similarity, which has no gradient, and 1 at least.

    Args:
        x: [B, T, C].
        sizes: [B, T].
        sources: [B, T] bool, tokens that join others.
        targets: [B, T] bool, tokens that they may join.
    """
    unit = F.normalize(at_least_float32(x.detach()), dim=-1)
    with without_autocast(unit):
        similarity = unit @ unit.mT
        best, into = similarity.masked_fill(~targets[:, None], -torch.inf).max(dim=-1)
        joining = sources.to(unit.dtype)
        weights = torch.zeros_like(similarity).scatter(1, into[:, None], joining[:, None])
        features = (x + weights @ x.to(unit)) / (1 + weights.sum(dim=-1, keepdim=True))
    discounted = (sizes * best.to(sizes.dtype)).clamp(min=1)
    gained = torch.zeros_like(sizes).scatter_add(1, into, discounted * joining)
    return features, torch.where(sources, discounted, sizes) + gained
