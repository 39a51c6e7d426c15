"""ToMe: merge the most similar pairs of tokens."""

from reduction.attention import AttentionView
from reduction.matching import Matching, bipartite_matching
from reduction.plan import Merge, Plan
from reduction.projections import attention_of, head_dim
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens


class ToMe(Stage):
    """Merges tokens at even positions into the odd ones that have the most similar keys.

    Places count from the first prefix token; those never merge. The stage merges the difference
    between its target and that of the stage before, at most half of the tokens, so that more
    tokens than the target may be left.
    """

    family = "merging"
    citation = "Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023"
    patterns = ("groups",)
    capped = True

    def __init__(self, spec: StageSpec, *, proportional: bool = True) -> None:
        """Set up the stage; `proportional` weighs keys by token size from then on."""
        super().__init__(spec)
        self.proportional = proportional

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Merge the best pairs."""
        merges = self.merges(tokens)
        return Merge(
            assignment=self.match(tokens, attention, merges).assignment(tokens.count),
            count=tokens.count - merges,
            proportional=self.proportional,
        )

    def match(self, tokens: Tokens, attention: AttentionView, merges: int) -> Matching:
        """Pair tokens by their keys."""
        keys = attention.mean_keys[:, tokens.num_prefix :]
        return bipartite_matching(keys, merges, num_prefix=tokens.num_prefix)

    def merges(self, tokens: Tokens) -> int:
        """Return how many tokens merge."""
        return self._merges(tokens.count, tokens.num_patches)

    def acts(self, tokens: Tokens) -> bool:
        """Return whether there is anything to merge."""
        return self.merges(tokens) > 0

    def _merges(self, incoming: int, num_patches: int) -> int:
        return min(self.spec.removal(num_patches), incoming // 2)

    def count(self, incoming: int) -> int:
        """Return the tokens left, which the cap can make more than the target."""
        return incoming - self._merges(incoming, self.spec.num_patches)

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the similarities of even and odd tokens."""
        even = incoming // 2
        return (left < incoming) * even * (incoming - even) * head_dim(attention_of(block))
