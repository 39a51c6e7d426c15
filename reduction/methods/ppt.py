"""PPT: prune the tokens of images where some stand out, merge those of all others."""

import torch
from torch import Tensor

from reduction.attention import AttentionView
from reduction.matching import Matching
from reduction.methods.token_ranking import check_score, score_macs
from reduction.methods.tome import ToMe
from reduction.plan import Merge, Plan
from reduction.stage import Count, HostBlock, StageSpec
from reduction.tokens import Tokens, at_least_float32, largest


class PPT(ToMe):
    """Drops the least significant tokens where significance varies, else merges as ToMe does.

    A token is significant where CLS attends to it and its value is long. At most half of the tokens
    go, so that more than the target may be left.
    """

    citation = "Wu et al., PPT: Token Pruning and Pooling for Efficient Vision Transformers, 2023"
    needs_cls = True

    def __init__(self, spec: StageSpec, *, threshold: float = 7e-5, score: str = "cls") -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            threshold: Variance of the tokens' shares of significance from which on an image is
                pruned. Meant for 196 patches; it goes with 1 / N ** 2. The authors take 6e-5 in
                training.
            score: What significance looks at, see `Ranking`.
        """
        super().__init__(spec)
        self.threshold, self.score = threshold, check_score(score)

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Prune or merge, image by image; kept tokens go in descending order of significance."""
        merges = self.merges(tokens)
        shares = significance(attention, self.score)
        kept = largest(shares, tokens.count - merges)
        none = kept[:, :0]
        prunes = shares.var(dim=1, keepdim=True) >= self.threshold
        return Merge(
            assignment=torch.where(
                prunes,
                Matching(kept, none, none).assignment(tokens.count),
                self.match(tokens, attention, merges).assignment(tokens.count),
            ),
            count=tokens.count - merges,
            drops=True,
            proportional=True,
        )

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the scores and of the matching."""
        scores = score_macs(self.score, incoming + self.spec.num_prefix, block)
        return super().macs(incoming, left, block) + (left < incoming) * scores


@torch.no_grad()
def significance(attention: AttentionView, score: str) -> Tensor:
    """Return each patch token's share [B, N] of attention times length of the value."""
    values = at_least_float32(attention.values[:, :, attention.num_prefix :])
    # Heads do not change the length of all channels together.
    product = attention.score_heads(score).sum(dim=1) * values.square().sum(dim=(1, 3)).sqrt()
    return product / product.sum(dim=1, keepdim=True)
