"""ToFu: drop similar tokens in the first blocks, merge them with their norm in the last ones."""

from torch import Tensor

from reduction.attention import AttentionView
from reduction.matching import Matching
from reduction.methods.tome import ToMe
from reduction.plan import Keep, Merge, Plan
from reduction.stage import StageSpec
from reduction.tokens import Tokens, at_least_float32, sum_by_group

NORMS = ("destination", "mean")


class ToFu(ToMe):
    """Matches as ToMe does, and drops the matched tokens up to the middle of the host.

    After it a group becomes its plain mean, lengthened towards its longest member. No sizes are
    counted. At most half of the tokens go, so that more than the target may be left.
    """

    citation = (
        "Kim et al., Token Fusion: Bridging the Gap between Token Pruning and Token Merging, "
        "WACV 2024"
    )

    def __init__(self, spec: StageSpec, *, norm: str = "destination") -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            norm: What the mean is divided by before it gets the norm of the longest member: the
                norm of the token the others join (`destination`, as published implementations
                have it, a little too short) or its own (`mean`, which preserves the norm).
        """
        super().__init__(spec, proportional=False)
        if norm not in NORMS:
            raise ValueError(f"norm is {norm!r}, but must be one of {', '.join(NORMS)}")
        self.norm = norm

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Drop or merge the best pairs."""
        matching = self.match(tokens, attention, self.merges(tokens))
        if self.spec.block <= self.spec.depth // 2:
            return Keep(index=matching.left)
        features = fuse(at_least_float32(tokens.patches), matching, self.norm)
        return Merge(
            assignment=matching.assignment(tokens.count),
            count=matching.left.shape[1],
            features=features,
            sized=False,
        )


def fuse(x: Tensor, matching: Matching, norm: str) -> Tensor:
    """Return the means [B, K, C] of groups with the norm of their longest member (MLERP).

    Args:
        x: [B, N, C].
        matching: The groups.
        norm: `destination` or `mean`, see `ToFu`.
    """
    norms, count = x.norm(dim=-1), matching.left.shape[1]
    assignment = matching.assignment(x.shape[1])
    own = norms.gather(1, matching.left)
    longest = own.scatter_reduce(1, matching.into, norms.gather(1, matching.merged), "amax")
    mean = sum_by_group(x, assignment, count) / matching.members(x.dtype)[..., None]
    length = own if norm == "destination" else mean.norm(dim=-1)
    return mean * (longest / length)[..., None]
