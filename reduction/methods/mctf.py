"""MCTF: merge by several criteria at once, before the attention that tells them."""

from dataclasses import replace

import torch
from torch import Tensor

from reduction.attention import AttentionView
from reduction.matching import two_way_matching
from reduction.plan import Merge, Plan, shares_in_group
from reduction.projections import attention_dim, attention_of
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens, at_least_float32

POOLS = ("attention", "size")
LEAST = 9
"""Patch tokens that a stage always leaves."""


class MCTF(Stage):
    """Merges tokens that are alike, get little attention and stand for few patches.

    Half of them join a token at an odd place of the sequence, then tokens at odd places join those
    left at even ones. The block goes on with its attention map merged in the same way; keys weigh
    by token size from then on. A stage leaves 9 patch tokens at least and merges at most half.
    """

    family = "merging"
    citation = (
        "Lee et al., Multi-criteria Token Fusion with One-step-ahead Attention for Efficient "
        "Vision Transformers, CVPR 2024"
    )
    patterns = ("groups",)
    capped = True
    trains_beside_fuller = True

    def __init__(
        self,
        spec: StageSpec,
        *,
        ahead: int = 1,
        two_way: bool = True,
        pool: str = "attention",
        ts: int = 1,
        ti: int = 20,
        tz: int = 40,
    ) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            ahead: 1 merges before the attention and merges its map, too; 2 has the merged tokens
                attend anew; 0 merges after the block, by its own attention.
            two_way: Let half of the tokens to go join in each direction; else all go from even to
                odd places.
            pool: What the mean of a group is weighted by: token size times the attention received
                (`attention`), or token size alone (`size`).
            ts: Temperature of the similarity; its root of that order counts. 0 leaves it out.
            ti: The same of the attention received.
            tz: The same of the token size.
        """
        super().__init__(spec)
        if ahead not in (0, 1, 2):
            raise ValueError(f"ahead is {ahead}, but must be one of 0, 1, 2")
        if pool not in POOLS:
            raise ValueError(f"pool is {pool!r}, but must be one of {', '.join(POOLS)}")
        if min(ts, ti, tz) < 0:
            raise ValueError(f"ts, ti, tz are {ts}, {ti}, {tz}, but must be at least 0")
        self.ahead, self.two_way, self.pool = ahead, two_way, pool
        self.temperatures = (ts, ti, tz)

    def acts_at(self, hook: str) -> bool:
        """Return whether the stage acts at `hook`: after the block, or before its attention."""
        return self.overrides(hook) and (hook == "after_block") == (self.ahead == 0)

    def before_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Merge the tokens, and the block's attention among them."""
        merge = self._merge(tokens, attention)
        return merge if self.ahead == 2 else replace(merge, reuses_attention=True)

    def after_block(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Merge the tokens."""
        return self._merge(tokens, attention)

    def _merge(self, tokens: Tokens, attention: AttentionView) -> Merge:
        received = attention.received
        merges = self._merges(tokens.count, tokens.num_patches)
        sizes = tokens.sizes
        if sizes is None:
            sizes = torch.ones_like(received[:, tokens.num_prefix :])
        assignment = two_way_matching(
            at_least_float32(tokens.patches),
            self._scarcity(received, tokens.with_prefix(sizes))[:, tokens.num_prefix :],
            (merges // 2 if self.two_way else merges, merges),
            order=self.temperatures[0],
            num_prefix=tokens.num_prefix,
        )
        weights = sizes
        if self.pool == "attention":
            weights = received[:, tokens.num_prefix :] * sizes
        count = tokens.count - merges
        return Merge(
            assignment=assignment,
            count=count,
            shares=shares_in_group(weights, assignment, count),
            proportional=True,
        )

    def _scarcity(self, *amounts: Tensor) -> Tensor:
        """Return how much tokens [B, T] lend themselves to merging, for having little of each."""
        scarcity = torch.ones_like(amounts[0])
        for amount, order in zip(amounts, self.temperatures[1:], strict=True):
            if order:
                scarcity *= (amount.amin(dim=1, keepdim=True) / amount) ** (1 / order)
        return scarcity

    def acts(self, tokens: Tokens) -> bool:
        """Return whether there is anything to merge."""
        return self._merges(tokens.count, tokens.num_patches) > 0

    def _merges(self, incoming: int, num_patches: int) -> int:
        return max(min(self.spec.removal(num_patches), incoming - LEAST, incoming // 2), 0)

    def count(self, incoming: int) -> int:
        """Return the tokens left."""
        return incoming - self._merges(incoming, self.spec.num_patches)

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the attention map, of the similarities, and of attending after."""
        before, after = (self.spec.num_prefix + count for count in (incoming, left))
        half, width = incoming // 2, attention_dim(attention_of(block))
        macs = before * before * width
        if self.temperatures[0]:
            macs = macs + half * (incoming - half) * self.spec.dim
        if self.ahead:
            macs = macs + after * 3 * self.spec.dim * width  # queries, keys and values anew
        if self.ahead == 1:  # all attend, not only those left
            macs = macs + 2 * (before * before - after * after) * width
        return (left < incoming) * macs
