"""EViT: keep the tokens the CLS token attends to most, fuse the others into one."""

from reduction.attention import AttentionView
from reduction.methods.topk import TopK
from reduction.plan import Keep, Plan
from reduction.tokens import Tokens, largest


class EViT(TopK):
    """Top-K with one extra, last token: the sum of the others weighted by their attention.

    A later stage treats that token as any other.
    """

    citation = "Liang et al., Not All Patches are What You Need (EViT), ICLR 2022"

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Keep the target count of tokens and append the fused one."""
        scores = attention.scores(self.score)
        kept = largest(scores, self.spec.target(tokens.num_patches))
        return Keep(index=kept, fused=scores.scatter(1, kept, 0.0)[:, None])

    def count(self, incoming: int) -> int:
        """Return the target count and the fused token."""
        left = super().count(incoming)
        return left if left == incoming else left + 1
