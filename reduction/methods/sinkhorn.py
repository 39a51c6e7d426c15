"""Sinkhorn: an entropic transport plan takes the tokens to learnt centres."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reduction.methods.soft import SoftMerging, similarities
from reduction.stage import Count, HostBlock, StageSpec
from reduction.tokens import without_autocast

LEAST_SCALED_EPS = 0.05
"""Smallest `eps` at which exponentials of cosines over it, and sums of these, fit float32."""


class Sinkhorn(SoftMerging):
    """Replaces the tokens by sums of the unit-length ones under the transport plan."""

    citation = (
        "Haurum et al., Multi-scale Hybrid Vision Transformer and Sinkhorn Tokenizer, "
        "Automation in Construction 2022"
    )

    def __init__(self, spec: StageSpec, *, eps: float = 1.0, iters: int = 3) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            eps: Weight of the entropy; the larger, the more even the plan.
            iters: Rounds of scaling to the marginals.
        """
        super().__init__(spec)
        if eps <= 0:
            raise ValueError(f"eps is {eps:g}, but must be above 0")
        if iters < 1:
            raise ValueError(f"iters is {iters}, but must be at least 1")
        self.eps = eps
        self.iters = iters
        self.centers = nn.Parameter(F.normalize(torch.randn(self.num_outputs, spec.dim), dim=-1))

    def prepare(self, x: Tensor) -> Tensor:
        """Scale the tokens to unit length."""
        return F.normalize(x, dim=-1)

    def weights(self, x: Tensor) -> Tensor:
        """Return the transport plan, scaled so that every token gives 1 in all."""
        scores = similarities(self._unit_centers(), x) / self.eps
        if scores.is_cuda and self.eps >= LEAST_SCALED_EPS:
            return scaled_plan(scores, self.iters)
        return sinkhorn_plan(scores, self.iters)

    def _unit_centers(self) -> Tensor:
        # Only training writes: rounding makes each normalisation of unit vectors a new result,
        # and evaluation has to repeat itself.
        unit = F.normalize(self.centers, dim=-1)
        if not self.training:
            return unit
        with torch.no_grad():
            self.centers.copy_(unit)
        return self.centers

    def no_weight_decay(self) -> set[str]:
        """Name the centres."""
        return {"centers"}

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the scores and of the sums."""
        return 2 * incoming * left * self.spec.dim


def sinkhorn_plan(scores: Tensor, iters: int) -> Tensor:
    """Return the plan [B, K, N] times K + N of `scores` [B, K, N], in the log domain.

    Every row and column has the marginal 1 / (K + N), as the published study ran; the columns
    (tokens) come last, so that theirs hold exactly.
    """
    marginal = -math.log(sum(scores.shape[1:]))
    columns = torch.zeros_like(scores[:, :1])
    for _ in range(iters):
        rows = marginal - (scores + columns).logsumexp(dim=2, keepdim=True)
        columns = marginal - (scores + rows).logsumexp(dim=1, keepdim=True)
    return (scores + rows + columns - marginal).exp()


def scaled_plan(scores: Tensor, iters: int) -> Tensor:
    """Return what `sinkhorn_plan` does, but for rounding, where exponentials of scores are finite.

    Exponentials are taken once, and each scaling reads them once: a tenth of what the log domain
    moves, which is what a GPU waits for.
    """
    marginal = 1 / sum(scores.shape[1:])
    with without_autocast(scores):
        kernel = scores.exp()
        columns = torch.ones_like(scores[:, :1])
        for _ in range(iters):
            rows = marginal / (kernel @ columns.mT)
            columns = marginal / (rows.mT @ kernel)
        return kernel * (rows / marginal) * columns
