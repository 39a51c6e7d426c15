"""ATS: sample tokens from the distribution of their significance."""

from dataclasses import replace

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from reduction.attention import AttentionView
from reduction.stage import Count, Stage
from reduction.tokens import Tokens, at_least_float32, gather_tokens, weigh_keys


class ATS(Stage):
    """Keeps as query the tokens that evenly spaced quantiles of the significance fall on.

    Images keep different numbers of tokens; a batch is padded to the most, and padding is never
    attended to.
    """

    family = "pruning"
    citation = "Fayyaz et al., Adaptive Token Sampling for Efficient Vision Transformers, ECCV 2022"
    patterns = ("kept",)
    needs_cls = True
    fixed_budget = False
    pads = True

    def select_queries(
        self, tokens: Tokens, attention: AttentionView
    ) -> tuple[Tokens, Tensor | None]:
        """Sample at most the target count of tokens, ascending."""
        values = at_least_float32(attention.values[:, :, tokens.num_prefix :])
        significance = (attention.cls_heads * values.norm(dim=-1)).sum(dim=1)
        points = sample_points(self.spec.target(tokens.num_patches) + 1)
        index, mask = pick(significance.detach(), tokens.mask, points)
        if tokens.recorder is not None:
            tokens.recorder.keep(self.spec.block, index.masked_fill(~mask, -1))
        prefix = torch.arange(tokens.num_prefix, device=index.device)
        patch_rows = (index + tokens.num_prefix).masked_fill(~mask, 0)
        rows = torch.cat((prefix.expand(index.shape[0], -1), patch_rows), dim=1)
        tokens = replace(tokens, x=gather_tokens(tokens.x, rows), mask=mask)
        return weigh_keys(tokens), rows

    def count(self, incoming: int) -> int:
        """Return the most tokens an image can keep, one a sample point."""
        return min(incoming, len(sample_points(self.spec.target(self.spec.num_patches) + 1)))

    def macs(self, incoming: Count, left: Count, block: Block) -> Count:
        """Return the cost of the CLS row of the attention."""
        return (incoming + self.spec.num_prefix) * block.attn.attn_dim


def sample_points(budget: int) -> Tensor:
    """Return the quantiles (2i - 1) / (2 budget), i = 1, 2, ..., float64.

    They are `budget - 1`, or `budget` where rounding lets the end of the range in.
    """
    start, stop = 1 / (2 * budget), (2 * budget - 1) / (2 * budget)
    return torch.arange(start, stop, 1 / budget, dtype=torch.float64)


def pick(significance: Tensor, mask: Tensor | None, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct tokens whose cumulative significance is nearest to each point.

    Args:
        significance: [B, N], at least 0, and 0 for padding.
        mask: [B, N] bool, False for padding; None where there is none.
        points: [M] quantiles in (0, 1).

    Returns:
        [B, K] positions, ascending, padded to the longest image, and [B, K] bool, False there.
    """
    total = significance.sum(dim=1, keepdim=True)
    cumulative = (significance / (total + 1e-6)).cumsum(dim=1)
    if mask is not None:
        cumulative = cumulative + 0.1 * ~mask
    points = points.to(cumulative)
    nearest = (cumulative[:, None, :] - points[:, None]).abs().argmin(dim=2)
    picked = torch.zeros_like(significance, dtype=torch.bool).scatter(1, nearest, True)
    counts = picked.sum(dim=1)
    longest = int(counts.max())
    index = picked.byte().argsort(dim=1, descending=True, stable=True)[:, :longest]
    return index, torch.arange(longest, device=counts.device) < counts[:, None]
