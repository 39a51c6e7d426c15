"""K-medoids: keep the tokens that stand for clusters of them."""

import torch
from torch import Tensor

from reduction.plan import Merge, Plan
from reduction.projections import attention_dim, attention_of
from reduction.randomness import scramble_all
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens, distances, gather_tokens, largest, ranks

COSTS = ("global", "within")


class KMedoids(Stage):
    """Clusters the tokens by their Euclidean distance and keeps the medoids' own features.

    A token weighs as much as the attention it received in the block before.
    """

    family = "merging"
    citation = "Marin et al., Token Pooling in Vision Transformers, WACV 2023"
    patterns = ("kept", "groups")
    looks_back = True

    def __init__(
        self,
        spec: StageSpec,
        *,
        iters: int = 3,
        cost: str = "global",
        equal_weight: bool = False,
        seed: int = 0,
    ) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            iters: Rounds of assigning tokens and choosing new medoids.
            cost: What a medoid minimises: its weight times the sum of its distances to all tokens
                (`global`, as the published study ran) or to its cluster's (`within`).
            equal_weight: Weigh all tokens alike, and start from tokens far apart.
            seed: Chooses the first of those.
        """
        super().__init__(spec)
        if iters < 0:
            raise ValueError(f"iters is {iters}, but must be at least 0")
        if cost not in COSTS:
            raise ValueError(f"cost is {cost!r}, but must be one of {', '.join(COSTS)}")
        self.iters = iters
        self.cost = cost
        self.draw = int(scramble_all(seed, spec.index))
        self.looks_back = not equal_weight

    @torch.no_grad()
    def _cluster(self, tokens: Tokens, num_clusters: int) -> tuple[Tensor, Tensor]:
        distance = distances(tokens.patches)
        if tokens.received is None:
            weights = distance.new_ones(distance.shape[:2])
            medoids = farthest_start(distance, num_clusters, self.first_token(tokens.count))
        else:
            weights = tokens.received
            medoids = largest(weights, num_clusters)
        return k_medoids(distance, weights, medoids, iters=self.iters, cost=self.cost)

    def before_block(self, tokens: Tokens) -> Plan:
        """Keep the target count of medoids, in the order of their clusters."""
        target = self.spec.target(tokens.num_patches)
        medoids, assignment = self._cluster(tokens, target)
        return Merge(
            assignment=assignment,
            count=target,
            features=gather_tokens(tokens.patches, medoids),
            centres=medoids,
            sized=False,
        )

    def first_token(self, count: int) -> int:
        """Return the first of `count` tokens to start from where all weigh the same."""
        return self.draw % count

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the distances and of the attention map of the block before."""
        total = incoming + self.spec.num_prefix if self.looks_back else 0
        return self.acts_on(incoming) * (
            incoming * incoming * self.spec.dim + total * total * attention_dim(attention_of(block))
        )


def farthest_start(distance: Tensor, num_clusters: int, first: int) -> Tensor:
    """Return [B, K] tokens: `first`, then each time the one furthest from any chosen one."""
    chosen = [distance.new_full((distance.shape[0], 1), first, dtype=torch.int64)]
    furthest = distance[:, first].clone()
    for _ in range(num_clusters - 1):
        furthest.scatter_(1, chosen[-1], -torch.inf)
        chosen.append(furthest.argmax(dim=1, keepdim=True))
        furthest = furthest.maximum(gather_tokens(distance, chosen[-1])[:, 0]).masked_fill(
            furthest == -torch.inf, -torch.inf
        )
    return torch.cat(chosen, dim=1)


def k_medoids(
    distance: Tensor, weights: Tensor, medoids: Tensor, *, iters: int, cost: str
) -> tuple[Tensor, Tensor]:
    """Return the medoids [B, K] and the cluster of each token [B, N] after `iters` rounds.

    Args:
        distance: [B, N, N].
        weights: [B, N].
        medoids: [B, K] tokens to start from.
        iters: Rounds.
        cost: `global` or `within`. A cluster without members takes token 0 as its medoid in the
            first, as the published study ran, and keeps its medoid in the second.
    """
    assignment = _nearest(distance, medoids)
    total = distance.sum(dim=2)
    for _ in range(iters):
        if cost == "within":
            together = assignment[:, :, None] == assignment[:, None, :]
            total = (distance * together).sum(dim=2)
        order = largest(-weights * total, total.shape[1])
        none = torch.full_like(medoids, order.shape[1])
        best = none.scatter_reduce(1, assignment, ranks(order), "amin")
        instead = medoids if cost == "within" else torch.zeros_like(medoids)
        chosen = order.gather(1, best.clamp(max=order.shape[1] - 1))
        medoids = torch.where(best == none, instead, chosen)
        assignment = _nearest(distance, medoids)
    return medoids, assignment


def _nearest(distance: Tensor, medoids: Tensor) -> Tensor:
    return gather_tokens(distance, medoids).argmin(dim=1)
