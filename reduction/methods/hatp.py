"""Pruning One More Token: keep the most important tokens and the mean of the others."""

import torch
from torch import Tensor

from reduction.attention import AttentionView
from reduction.plan import Keep, Plan
from reduction.projections import attention_dim, attention_of
from reduction.stage import Count, HostBlock, Stage
from reduction.tokens import Tokens, at_least_float32, largest

LEAST = 2
"""Tokens that have to stay beside the mean; where fewer would, a stage does nothing."""


class HATP(Stage):
    """Keeps, of the target count, all but one by importance; the last is the mean of the others.

    A token is important where other patches attend to it in any head, and where its values are
    large. A later stage treats the mean as any other token.
    """

    family = "pruning"
    citation = (
        "Eliopoulos et al., Pruning One More Token is Enough: Leveraging Latency-Workload "
        "Non-Linearities for Vision Transformers on the Edge, WACV 2025"
    )
    patterns = ("kept",)

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Keep the target count of tokens, the mean of the others included."""
        scores = importance(attention)
        kept = largest(scores, self.spec.target(tokens.num_patches) - 1)
        others = torch.ones_like(scores).scatter(1, kept, 0.0)
        return Keep(index=kept, fused=(others / (tokens.count - kept.shape[1]))[:, None])

    def acts(self, tokens: Tokens) -> bool:
        """Return whether there is anything to drop, and enough to keep."""
        return super().acts(tokens) and self.spec.target(tokens.num_patches) > LEAST

    def count(self, incoming: int) -> int:
        """Return the target count, the mean included."""
        enough = self.spec.target(self.spec.num_patches) > LEAST
        return super().count(incoming) if enough else incoming

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the attention that patches pay."""
        keys = incoming + self.spec.num_prefix
        return (left < incoming) * incoming * keys * attention_dim(attention_of(block))


@torch.no_grad()
def importance(attention: AttentionView) -> Tensor:
    """Return the importance [B, N] of each patch token: attention received, and values."""
    patches = slice(attention.num_prefix, None)
    most = attention.probabilities(patches, slice(1))
    for head in range(1, attention.queries.shape[1]):  # one map at a time, for they are large
        most = most.maximum(attention.probabilities(patches, slice(head, head + 1)))
    received = most[:, 0, :, patches].sum(dim=1)
    values = at_least_float32(attention.values).amax(dim=1).sum(dim=-1).softmax(dim=-1)
    return received / received.amax(dim=1, keepdim=True) + values[:, patches]
