"""DPC-KNN: merge around density peaks."""

import torch
from torch import Tensor, nn

from reduction.plan import Merge, Plan
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens, at_least_float32, distances, largest, ranks, sum_by_group


class DPCKNN(Stage):
    """Clusters tokens around the densest that are far from denser ones, and averages clusters."""

    family = "merging"
    citation = "Zeng et al., Not All Tokens Are Equal (TCFormer), CVPR 2022; Du et al., 2016"
    patterns = ("kept", "groups")

    def __init__(self, spec: StageSpec, *, neighbours: int = 5, equal_weight: bool = False) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            neighbours: Nearest tokens, itself included, that a token's density looks at.
            equal_weight: Plain means instead of ones with learnt weights.
        """
        super().__init__(spec)
        if neighbours < 1:
            raise ValueError(f"neighbours is {neighbours}, but must be at least 1")
        self.neighbours = neighbours
        self.score = None if equal_weight else nn.Linear(spec.dim, 1)

    def before_block(self, tokens: Tokens) -> Plan:
        """Replace the tokens by the weighted means of the target count of clusters."""
        target = self.spec.target(tokens.num_patches)
        patches = tokens.patches
        centres, assignment = density_peaks(
            patches, target, neighbours=self.neighbours, noisy=self.training
        )
        scores = torch.zeros_like(patches[..., 0]) if self.score is None else self.score(patches)
        return Merge(
            assignment=assignment,
            count=target,
            shares=softmax_in_group(at_least_float32(scores.flatten(1)), assignment, target),
            centres=centres,
            sized=False,
        )

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the distances and the scores."""
        scores = 0 if self.score is None else 1
        return self.acts_on(incoming) * incoming * (incoming + scores) * self.spec.dim


def softmax_in_group(scores: Tensor, assignment: Tensor, num_groups: int) -> Tensor:
    """Return exp(score) over 1e-6 plus the sum of those in the same group, for any score [B, N].

    Args:
        scores: [B, N] float.
        assignment: [B, N] group of each, in 0..num_groups - 1.
        num_groups: Number of groups, each with a token.
    """
    lowest = scores.new_full((scores.shape[0], num_groups), -torch.inf)
    highest = lowest.scatter_reduce(1, assignment, scores.detach(), "amax")
    weights = (scores - highest.gather(1, assignment)).exp()
    total = sum_by_group(weights[..., None], assignment, num_groups)[..., 0]
    return weights / (total + 1e-6 * (-highest).exp()).gather(1, assignment)


@torch.no_grad()
def density_peaks(
    x: Tensor, num_centres: int, *, neighbours: int, noisy: bool
) -> tuple[Tensor, Tensor]:
    """Return the centres [B, K] of x [B, N, C], best first, and each token's centre [B, N].

    Tokens of equal density count as denser the earlier they are, or as noise of 1e-6 has it where
    `noisy`.
    """
    distance = distances(x) / x.shape[-1] ** 0.5
    nearest = distance.topk(min(neighbours, x.shape[1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    if noisy:
        density = density + torch.rand_like(density) * 1e-6
    rank = ranks(largest(density, density.shape[1]))
    denser = rank[:, None, :] < rank[:, :, None]
    furthest = distance.flatten(1).amax(dim=1)[:, None]
    to_denser = distance.masked_fill(~denser, torch.inf).amin(dim=-1)
    delta = torch.where(rank == 0, furthest, to_denser)

    centres = largest(density * delta, num_centres)
    to_centres = distance.gather(1, centres[..., None].expand(-1, -1, x.shape[1]))
    own = torch.arange(num_centres, device=x.device).expand_as(centres)
    return centres, to_centres.argmin(dim=1).scatter(1, centres, own)
