"""What methods share that rank tokens by the attention they get: from CLS, or from all tokens."""

from reduction.projections import attention_dim, attention_of
from reduction.stage import Count, HostBlock, Stage, StageSpec

SCORES = ("cls", "received")


class Ranking(Stage):
    """Ranks tokens by the attention that CLS pays them, or by what they get from all tokens."""

    needs_cls = True

    def __init__(self, spec: StageSpec, *, score: str = "cls") -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            score: What a token is ranked by: attention of the CLS token (`cls`), or the mean over
                all queries (`received`), for hosts that have no CLS token.
        """
        super().__init__(spec)
        self.score = check_score(score)

    def score_macs(self, incoming: Count, block: HostBlock) -> Count:
        """Return the cost of the attention that is looked at: the row of CLS, or the whole map."""
        return score_macs(self.score, incoming + self.spec.num_prefix, block)


def check_score(score: str) -> str:
    """Return `score`; ValueError where it is none of the `SCORES`."""
    if score not in SCORES:
        raise ValueError(f"score is {score!r}, but must be one of {', '.join(SCORES)}")
    return score


def score_macs(score: str, total: Count, block: HostBlock) -> Count:
    """Return the cost of a score's part of the attention map of `total` tokens."""
    rows = 1 if score == "cls" else total
    return rows * total * attention_dim(attention_of(block))
