"""ATC: cluster the tokens bottom-up on the similarity of their keys."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops import while_loop

from reduction.attention import AttentionView
from reduction.plan import Merge, Plan
from reduction.projections import attention_of, head_dim
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens, without_autocast

LINKAGES = ("average", "single", "complete")
State = tuple[Tensor, Tensor, Tensor]
"""Distances [B, N, N] of clusters, infinite from those that are gone; their sizes [B, N]; the first
member [B, N] of the cluster of each token."""


class ATC(Stage):
    """Merges the two nearest clusters until the target count is left, in order of first member."""

    family = "merging"
    citation = "Haurum et al., Agglomerative Token Clustering, ECCV 2024"
    patterns = ("groups",)

    def __init__(
        self, spec: StageSpec, *, linkage: str = "average", proportional: bool = True
    ) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            linkage: Distance of clusters: the mean (`average`), least (`single`) or largest
                (`complete`) cosine distance of their tokens' keys.
            proportional: Weight keys by token size from then on.
        """
        super().__init__(spec)
        if linkage not in LINKAGES:
            raise ValueError(f"linkage is {linkage!r}, but must be one of {', '.join(LINKAGES)}")
        self.linkage = linkage
        self.proportional = proportional

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Replace the tokens by the size-weighted means of clusters."""
        target = self.spec.target(tokens.num_patches)
        keys = attention.mean_keys[:, tokens.num_prefix :]
        assignment = agglomerate(cosine_distances(keys), target, self.linkage)
        return Merge(assignment=assignment, count=target, proportional=self.proportional)

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the similarities."""
        return self.acts_on(incoming) * incoming * incoming * head_dim(attention_of(block))


@torch.no_grad()
def cosine_distances(x: Tensor) -> Tensor:
    """Return one minus the cosines [B, N, N] of the rows of x [B, N, D]."""
    x = F.normalize(x, dim=-1)
    with without_autocast(x):
        return 1 - x @ x.mT


@torch.no_grad()
def agglomerate(distance: Tensor, num_clusters: int, linkage: str) -> Tensor:
    """Return the cluster [B, N] of each token, clusters numbered by their first members.

    Lance and Williams' update of a distance matrix, for all images at once.

    Args:
        distance: [B, N, N], symmetric.
        num_clusters: Clusters to stop at, in 1..N.
        linkage: `average`, `single` or `complete`.
    """
    batch, count = distance.shape[:2]
    image = torch.arange(batch, device=distance.device)
    token = torch.arange(count, device=distance.device)
    infinity = distance.new_full((), torch.inf)  # a plain number would make a GPU wait

    def merge(state: State) -> State:
        return _merge_nearest(state, image, infinity, linkage)

    state = (
        distance.where(token != token[:, None], infinity),
        distance.new_ones(batch, count),
        token.repeat(batch, 1),
    )
    merges = count - num_clusters
    if torch.compiler.is_exporting():
        state = _exported_loop(merge, state, merges)
    else:
        for _ in range(merges):
            state = merge(state)
    leader = state[2]
    number = (leader == token).cumsum(dim=1) - 1
    return number.gather(1, leader)


def _merge_nearest(state: State, image: Tensor, infinity: Tensor, linkage: str) -> State:
    """Merge the two nearest clusters of each `image` [B], in place."""
    distance, sizes, leader = state
    # By way of the least in each row, as finding where a minimum is costs ten times its value.
    row = distance.amin(dim=2).argmin(dim=1)
    column = distance[image, row].argmin(dim=1)
    stays, goes = torch.minimum(row, column), torch.maximum(row, column)
    merged = _linked(distance[image, stays], distance[image, goes], sizes, stays, goes, linkage)
    merged[image, stays] = infinity
    distance[image, stays] = distance[image, :, stays] = merged
    distance[image, goes] = distance[image, :, goes] = infinity
    sizes[image, stays] += sizes[image, goes]
    return distance, sizes, torch.where(leader == goes[:, None], stays[:, None], leader)


def _exported_loop(merge: Callable[[State], State], state: State, merges: int) -> State:
    """Merge so many times, in a loop that stays one in the exported program."""

    def body(done: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        distance, sizes, leader = (x.clone() for x in state)
        return done + 1, *merge((distance, sizes, leader))

    start = torch.zeros((), dtype=torch.int64)
    _, *left = while_loop(lambda done, *_: done < merges, body, (start, *state))
    distance, sizes, leader = left
    return distance, sizes, leader


def _linked(
    one: Tensor, other: Tensor, sizes: Tensor, stays: Tensor, goes: Tensor, linkage: str
) -> Tensor:
    """Distances [B, N] of the union of two clusters, from those of each to all clusters."""
    if linkage == "single":
        return torch.minimum(one, other)
    if linkage == "complete":
        return torch.maximum(one, other)
    weight, other_weight = (sizes.gather(1, index[:, None]) for index in (stays, goes))
    return (weight * one + other_weight * other) / (weight + other_weight)
