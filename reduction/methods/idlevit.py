"""IdleViT: every block works on the tokens CLS looks for; the others pass it unchanged."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reduction.attention import AttentionView
from reduction.methods.token_ranking import Ranking
from reduction.plan import Plan, Rest
from reduction.stage import Count, HostBlock
from reduction.tokens import Tokens, at_least_float32, largest, without_autocast
from reduction.trace import Learning


class IdleViT(Ranking):
    """Runs its block on the tokens with the largest product of CLS query and key, mean over heads.

    No token is lost: those that rest may be chosen in a later block. In training the trace's
    `learning` has the loss that keeps the two kinds from attending to each other.
    """

    family = "pruning"
    citation = (
        "Xu et al., No Token Left Behind: Efficient Vision Transformer via Dynamic Token Idling, "
        "AJCAI 2023"
    )
    patterns = ("kept",)
    rests = True
    hands_to_loss = True

    def before_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Choose the target count of tokens."""
        scores = self._scores(tokens, attention).detach()
        index = largest(scores, self.spec.target(tokens.num_patches))
        learning = None
        if self.training and tokens.recorder is not None:
            chosen = torch.zeros_like(scores).scatter(1, index, 1.0)
            logits = mean_logits(attention, slice(None))
            cut = token_cut_loss(logits, tokens.with_prefix(chosen), tokens.num_prefix)
            learning = Learning(cut_loss=cut)
        return Rest(index=index, learning=learning)

    def _scores(self, tokens: Tokens, attention: AttentionView) -> Tensor:
        if self.score == "received":
            return attention.scores(self.score)
        return mean_logits(attention, slice(1))[:, 0, tokens.num_prefix :]

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the scores."""
        return self.acts_on(incoming) * self.score_macs(incoming, block)


def mean_logits(attention: AttentionView, rows: slice) -> Tensor:
    """Return the products [B, rows, P + N] of queries and keys, mean over heads, not scaled."""
    queries, keys = (
        at_least_float32(heads.transpose(1, 2).flatten(2))
        for heads in (attention.queries[:, :, rows], attention.keys)
    )
    with without_autocast(queries):
        return queries @ keys.mT / attention.queries.shape[1]


def token_cut_loss(logits: Tensor, chosen: Tensor, num_prefix: int) -> Tensor:
    """Return how much attention crosses between chosen tokens and others, as a scalar.

    Xu et al., 2023, after normalised cuts of graphs.

    Args:
        logits: [B, T, T] mean over heads.
        chosen: [B, T], 1 for tokens that take part, prefix tokens included, and 0 for others.
        num_prefix: P; attention to these crosses nothing.
    """
    attention = logits.softmax(dim=-1)
    crosses = (chosen[:, :, None] - chosen[:, None]).abs()
    crossing = (crosses * attention)[:, :, num_prefix:].sum(dim=-1)
    within = (chosen[:, :, None] * chosen[:, None] * attention).sum(dim=-1)
    return crossing.square().mean() + F.mse_loss(within, chosen)
