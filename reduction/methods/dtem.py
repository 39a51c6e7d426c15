"""DTEM: ToMe with a metric that is learned apart from the keys, by merging softly in training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reduction.attention import AttentionView
from reduction.matching import Matching, bipartite_matching
from reduction.methods.tome import ToMe
from reduction.plan import Keep, Plan
from reduction.stage import Count, HostBlock, StageSpec
from reduction.tokens import Tokens, at_least_float32, gather_tokens, largest, without_autocast

PARTNERS = 3
"""Most similar partners that a token may merge with in training."""
TEMPERATURE = 0.1
"""Of the similarities, and again of the softmax over all pairs."""
LEAST_SIZE = 1e-12
"""Of a token that has merged altogether: it keeps the logarithm finite."""


class DTEM(ToMe):
    """Merges as ToMe does, by the similarity of a learned projection of the block's input.

    In training no token goes: each of the merges is a softmax over all pairs of tokens, which moves
    part of a token, and of its size, to others. Only that teaches the projection, which sees its
    input without a gradient.
    """

    citation = "Lee and Hong, Learning to Merge Tokens via Decoupled Embedding, NeurIPS 2024"
    drops_none_in_training = True

    def __init__(self, spec: StageSpec, *, proportional: bool = True) -> None:
        """Set up the stage; `proportional` weighs keys by token size from then on."""
        super().__init__(spec, proportional=proportional)
        self.metric = nn.Linear(spec.dim, spec.head_dim * (2 if spec.dim >= 1024 else 1))

    def match(self, tokens: Tokens, attention: AttentionView, merges: int) -> Matching:
        """Pair tokens by the learned metric."""
        metric = self.metric(attention.x[:, tokens.num_prefix :])
        return bipartite_matching(metric, merges, num_prefix=tokens.num_prefix)

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Merge the best pairs, or softly in training."""
        if not self.training:
            return super().after_attention(tokens, attention)
        active = self._active(tokens.num_patches)
        x = at_least_float32(tokens.patches)
        metric = self.metric(attention.x[:, tokens.num_prefix :].detach())
        sizes = torch.ones_like(x[..., 0]) if tokens.sizes is None else tokens.sizes
        features, sizes = soft_merge(
            x, sizes, at_least_float32(metric), self._merges(active, tokens.num_patches), active
        )
        order = largest(sizes[:, :active].detach(), active)
        resting = torch.arange(active, tokens.count, device=order.device)
        order = torch.cat((order, resting.expand(order.shape[0], -1)), dim=1)
        return Keep(
            index=order,
            features=gather_tokens(features, order),
            sizes=sizes.gather(1, order),
            proportional=self.proportional,
        )

    def acts(self, tokens: Tokens) -> bool:
        """Return whether there is anything to merge."""
        count = self._active(tokens.num_patches) if self.training else tokens.count
        return self._merges(count, tokens.num_patches) > 0

    def _active(self, num_patches: int) -> int:
        """Patch tokens that earlier stages would have left."""
        targets = (num_patches, *self.spec.schedule.targets(num_patches))
        active = num_patches
        for stage in range(self.spec.index):
            active -= min(targets[stage] - targets[stage + 1], active // 2)
        return active

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the metric and of the similarities."""
        half, width = incoming // 2, self.metric.out_features
        pairs = half * (incoming - half)
        return (left < incoming) * width * (incoming * self.spec.dim + pairs)


def soft_merge(
    x: Tensor, sizes: Tensor, metric: Tensor, merges: int, active: int
) -> tuple[Tensor, Tensor]:
    """Return the tokens [B, N, C] and sizes [B, N] after merging softly, order unchanged.

    Every other of the active tokens gives parts of itself to the ones between them.

    Args:
        x: [B, N, C] patch tokens.
        sizes: [B, N].
        metric: [B, N, D].
        merges: Tokens to merge, at most half of the active ones.
        active: The first so many tokens take part.
    """
    givers, takers = slice(0, active, 2), slice(1, active, 2)
    unit = F.normalize(metric, dim=-1)
    with without_autocast(unit):
        similarity = unit[:, givers] @ unit[:, takers].mT
        top = similarity.topk(min(PARTNERS, similarity.shape[2]), dim=-1)
        weights = soft_selection(top.values, merges)
        moved = torch.zeros_like(similarity).scatter(2, top.indices, weights)
        given = moved * sizes[:, givers, None]
        taken = sizes[:, takers] + given.sum(dim=1)
        mixed = (sizes[:, takers, None] * x[:, takers] + given.mT @ x[:, givers]) / taken[..., None]
    share_left = 1 - moved.sum(dim=2)
    features, left = x.clone(), sizes.clone()
    features[:, takers], left[:, takers] = mixed, taken
    left[:, givers] = clamped(sizes[:, givers] * clamped(share_left, 0, 1), LEAST_SIZE)
    return features, left


def soft_selection(similarity: Tensor, merges: int) -> Tensor:
    """Return how much of each token goes to each of its partners, [B, A, K]; rows sum to 1 at most.

    Args:
        similarity: [B, A, K] cosines of tokens with their partners.
        merges: How many pairs to draw one after another.
    """
    smallest = torch.finfo(torch.float32).eps
    scores, total = similarity / TEMPERATURE, torch.zeros_like(similarity)
    for _ in range(merges):
        drawn = (scores / TEMPERATURE).flatten(1).softmax(dim=1).view_as(scores)
        total = total + drawn
        remaining = 1 - drawn.sum(dim=2, keepdim=True)
        scores = scores + remaining.clamp(min=smallest).log()
    excess = (total.sum(dim=2, keepdim=True) - 1).clamp(min=0)
    return total / (1 + excess.detach())


def clamped(x: Tensor, least: float, most: float | None = None) -> Tensor:
    """Return x within limits, with the gradient of x."""
    return x + (x.clamp(least, most) - x).detach()
