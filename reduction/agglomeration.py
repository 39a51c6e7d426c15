"""Agglomerative clustering: the two nearest clusters merge until few enough are left."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch._higher_order_ops import while_loop

HAS_TRITON = find_spec("triton") is not None  # Here, as torch.compile cannot look at it.
LINKAGES = ("average", "single", "complete")
State = tuple[Tensor, Tensor, Tensor]
"""Distances [B, N, N] of clusters, infinite from those that are gone; their sizes [B, N]; the first
member [B, N] of the cluster of each token."""


@torch.no_grad()
def agglomerate(distance: Tensor, num_clusters: int, linkage: str) -> Tensor:
    """Return the cluster [B, N] of each token, clusters numbered by their first members.

    Of equal distances the first in the matrix counts. Lance and Williams' update, for all images at
    once; on a CUDA device with Triton one kernel does it, where that agrees (`merged_on_cuda`).

    Args:
        distance: [B, N, N], symmetric.
        num_clusters: Clusters to stop at, in 1..N.
        linkage: `average`, `single` or `complete`.
    """
    token = torch.arange(distance.shape[1], device=distance.device)
    infinity = distance.new_full((), torch.inf)  # a plain number would make a GPU wait
    apart = distance.where(token != token[:, None], infinity)
    merges = distance.shape[1] - num_clusters
    if torch.compiler.is_exporting():
        leader = _exported(apart, merges, linkage)
    elif has_kernel(distance):
        leader = merged_on_cuda(apart, merges, linkage)
    else:
        leader = merged_one_by_one(apart, merges, linkage)
    number = (leader == token).cumsum(dim=1) - 1
    return number.gather(1, leader)


def has_kernel(distance: Tensor) -> bool:
    """Return whether there is a kernel for such distances: float32, on NVIDIA's, with Triton."""
    nvidia = distance.device.type == "cuda" and torch.version.hip is None
    return HAS_TRITON and nvidia and distance.dtype is torch.float32


def merged_one_by_one(distance: Tensor, merges: int, linkage: str) -> Tensor:
    """Return the first member [B, N] of the cluster of each token after so many merges.

    Args:
        distance: [B, N, N], infinite on the diagonal; as it was afterwards.
        merges: In 0..N - 1.
        linkage: As in `agglomerate`.
    """
    merge, state = _start(distance.clone(), linkage)
    for _ in range(merges):
        state = merge(state)
    return state[2]


def _exported(distance: Tensor, merges: int, linkage: str) -> Tensor:
    """Return what `merged_one_by_one` does, by a loop that stays one in the exported program."""
    merge, state = _start(distance, linkage)

    def body(done: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        distance, sizes, leader = (x.clone() for x in state)
        return done + 1, *merge((distance, sizes, leader))

    start = torch.zeros((), dtype=torch.int64)
    *_, leader = while_loop(lambda done, *_: done < merges, body, (start, *state))
    return leader


def _start(distance: Tensor, linkage: str) -> tuple[Callable[[State], State], State]:
    """Return what merges the two nearest clusters of each image, and the state before it does."""
    batch, count = distance.shape[:2]
    image = torch.arange(batch, device=distance.device)
    token = torch.arange(count, device=distance.device)
    infinity = distance.new_full((), torch.inf)

    def merge(state: State) -> State:
        return _merge_nearest(state, image, infinity, linkage)

    return merge, (distance, distance.new_ones(batch, count), token.repeat(batch, 1))


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


_AGREES: dict[tuple[int, int, str], bool] = {}
"""Device, tokens and linkage -> whether the kernel was found to agree there."""


@torch.library.custom_op("tokensweep::merged_on_cuda", mutates_args=())
def merged_on_cuda(distance: Tensor, merges: int, linkage: str) -> Tensor:
    """Return what `merged_one_by_one` does, by one kernel where that agrees with it.

    The first call on a device, for each number of tokens and linkage, looks whether it does, on
    distances made for that, and waits for the device; no other call does. An operator, so that
    `torch.compile` leaves it as it is.
    """
    key = (distance.device.index, distance.shape[1], linkage)
    if key not in _AGREES:
        if torch.cuda.is_current_stream_capturing():  # Nothing can be looked at.
            return merged_one_by_one(distance, merges, linkage)
        _AGREES[key] = _agrees(distance.device, distance.shape[1], linkage)
    if not _AGREES[key]:
        return merged_one_by_one(distance, merges, linkage)
    from reduction.agglomeration_kernel import merged_by_kernel

    return merged_by_kernel(distance, merges, linkage)


@merged_on_cuda.register_fake
def _(distance: Tensor, merges: int, linkage: str) -> Tensor:
    return distance.new_empty(distance.shape[:2], dtype=torch.int64)


def _agrees(device: torch.device, count: int, linkage: str) -> bool:
    """Return whether the kernel merges as it must, ties included; warn where it does not."""
    from reduction.agglomeration_kernel import merged_by_kernel

    distance = trial_distances(count).to(device)
    try:
        found = [
            run(distance, count * 3 // 4, linkage) for run in (merged_by_kernel, merged_one_by_one)
        ]
        wrong = "" if found[0].equal(found[1]) else "it chose other pairs than it must"
    except Exception as error:  # What compiling a kernel raises depends on Triton's version.
        wrong = f"{type(error).__name__}: {error}".splitlines()[0]
    if wrong:
        warnings.warn(f"ATC's kernel is not used on this GPU: {wrong}", stacklevel=2)
    return not wrong


def trial_distances(count: int) -> Tensor:
    """Return distances [2, N, N] to try a kernel on: of the second image many are equal."""
    generator = torch.Generator().manual_seed(0)
    half = torch.rand(2, count, count, generator=generator)
    half[1] = (8 * half[1]).floor() / 8
    distance = half.triu(1) + half.triu(1).mT
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return distance
