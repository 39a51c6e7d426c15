"""Top-K: keep the patch tokens that get the most attention."""

from reduction.attention import AttentionView
from reduction.methods.token_ranking import Ranking
from reduction.plan import Keep, Plan
from reduction.stage import Count, HostBlock
from reduction.tokens import Tokens, largest


class TopK(Ranking):
    """Keeps the tokens with the largest attention of CLS, in descending order of it."""

    family = "pruning"
    citation = "Haurum et al., Which Tokens to Use?, ICCV Workshops 2023"
    patterns = ("kept",)

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Keep the target count of tokens."""
        return Keep(
            index=largest(attention.scores(self.score), self.spec.target(tokens.num_patches))
        )

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the scores."""
        return self.acts_on(incoming) * self.score_macs(incoming, block)
