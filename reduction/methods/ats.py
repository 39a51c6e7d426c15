"""ATS: sample tokens from the distribution of their significance."""

import torch
from torch import Tensor

from reduction.attention import AttentionView
from reduction.methods.token_ranking import Ranking
from reduction.plan import Keep, Plan
from reduction.stage import Count, HostBlock, StageSpec
from reduction.tokens import Tokens, at_least_float32, largest

PADS = ("batch", "budget")


class ATS(Ranking):
    """Keeps as query the tokens that evenly spaced quantiles of the significance fall on.

    Images keep different numbers of tokens; they are padded, and padding is never attended to.
    """

    family = "pruning"
    citation = "Fayyaz et al., Adaptive Token Sampling for Efficient Vision Transformers, ECCV 2022"
    patterns = ("kept",)
    fixed_budget = False
    pads = True

    def __init__(self, spec: StageSpec, *, score: str = "cls", pad: str = "batch") -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            score: Whose attention makes a token significant, see `Ranking`.
            pad: Pad to the most tokens that an image of the batch keeps (`batch`), or that any
                could keep (`budget`), so that shapes do not depend on the images.
        """
        super().__init__(spec, score=score)
        if pad not in PADS:
            raise ValueError(f"pad is {pad!r}, but must be one of {', '.join(PADS)}")
        self.pad = pad

    def select_queries(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Sample at most the target count of tokens, ascending."""
        values = at_least_float32(attention.values[:, :, tokens.num_prefix :])
        significance = (attention.score_heads(self.score) * values.norm(dim=-1)).sum(dim=1)
        points = sample_points(self.spec.target(tokens.num_patches) + 1)
        most = self._most(len(points), tokens.count)
        index, mask = pick(significance.detach(), tokens.mask, points, most)
        return Keep(index=index, mask=mask)

    def _most(self, points: int, incoming: int) -> int | None:
        return min(points, incoming) if self.pad == "budget" else None

    def acts(self, tokens: Tokens) -> bool:
        """Return True: sampling drops tokens even where there are fewer than the target."""
        return True

    def count(self, incoming: int) -> int:
        """Return the most tokens an image can keep, one a sample point."""
        return min(incoming, len(sample_points(self.spec.target(self.spec.num_patches) + 1)))

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the scores."""
        return self.score_macs(incoming, block)


def sample_points(budget: int) -> Tensor:
    """Return the quantiles (2i - 1) / (2 budget), i = 1, 2, ..., float64.

    They are `budget - 1`, or `budget` where rounding lets the end of the range in.
    """
    start, stop = 1 / (2 * budget), (2 * budget - 1) / (2 * budget)
    return torch.arange(start, stop, 1 / budget, dtype=torch.float64)


def pick(
    significance: Tensor, mask: Tensor | None, points: Tensor, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the distinct tokens whose cumulative significance is nearest to each point.

    Args:
        significance: [B, N], at least 0, and 0 for padding.
        mask: [B, N] bool, False for padding; None where there is none.
        points: [M] quantiles in (0, 1).
        most: K; None for the number of tokens of the longest image.

    Returns:
        [B, K] positions, ascending, padded, and [B, K] bool, False there.
    """
    total = significance.sum(dim=1, keepdim=True)
    cumulative = (significance / (total + 1e-6)).cumsum(dim=1)
    if mask is not None:
        cumulative = cumulative + 0.1 * ~mask
    points = points.to(cumulative)
    nearest = (cumulative[:, None, :] - points[:, None]).abs().argmin(dim=2)
    hits = torch.ones_like(nearest, dtype=torch.bool)  # torch.jit.trace takes no plain True
    picked = torch.zeros_like(significance, dtype=torch.bool).scatter(1, nearest, hits)
    counts = picked.sum(dim=1)
    longest = int(counts.max()) if most is None else most
    index = largest(picked.int(), longest)
    return index, torch.arange(longest, device=counts.device) < counts[:, None]
