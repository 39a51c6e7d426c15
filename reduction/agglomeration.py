"""ATC's clustering as one Triton kernel: on a GPU, some twenty small ones a merge cost far more."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Rows of a distance matrix that are looked at together."""


def leaders(distance: Tensor, num_clusters: int, linkage: str) -> Tensor:
    """Return the leader [B, N], int64, of each token: the first member of its cluster.

    Args:
        distance: float32 [B, N, N], symmetric, infinite on the diagonal; is overwritten.
        num_clusters: Clusters to stop at, in 1..N.
        linkage: `average`, `single` or `complete`.
    """
    batch, count = distance.shape[:2]
    leader = torch.empty_like(distance[:, 0], dtype=torch.int64)
    sizes = torch.ones_like(distance[:, 0])
    _merge_nearest[(batch,)](
        distance,
        sizes,
        leader,
        count,
        count - num_clusters,
        LINKAGE=linkage,
        ROWS=ROWS,
        COLUMNS=triton.next_power_of_2(count),
        num_warps=8,
    )
    return leader


@triton.jit
def _merge_nearest(  # type: ignore[no-untyped-def] # noqa: ANN202 - Triton reads annotations
    distances,  # noqa: ANN001
    all_sizes,  # noqa: ANN001
    all_leaders,  # noqa: ANN001
    count,  # noqa: ANN001
    merges,  # noqa: ANN001
    LINKAGE: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    """Merge the two nearest clusters of one image, `merges` times; of equals the first."""
    image = tl.program_id(0).to(tl.int64)
    matrix = distances + image * count * count
    sizes = all_sizes + image * count
    columns = tl.arange(0, COLUMNS)
    inside = columns < count
    leader = columns
    infinity = float("inf")
    for _ in range(merges):
        nearest = infinity
        place = 0
        for start in range(0, count, ROWS):
            rows = start + tl.arange(0, ROWS)
            here = (rows < count)[:, None] & inside[None, :]
            tile = tl.load(
                matrix + rows[:, None] * count + columns[None, :], mask=here, other=infinity
            )
            tile = tl.reshape(tile, [ROWS * COLUMNS])
            least, index = tl.min(tile, axis=0, return_indices=True)
            closer = least < nearest
            row = start + index // COLUMNS
            place = tl.where(closer, row * COLUMNS + index % COLUMNS, place)
            nearest = tl.where(closer, least, nearest)
        stays = tl.minimum(place // COLUMNS, place % COLUMNS)
        goes = tl.maximum(place // COLUMNS, place % COLUMNS)

        one = tl.load(matrix + stays * count + columns, mask=inside, other=infinity)
        other = tl.load(matrix + goes * count + columns, mask=inside, other=infinity)
        size = tl.load(sizes + stays)
        other_size = tl.load(sizes + goes)
        if LINKAGE == "single":
            merged = tl.minimum(one, other)
        elif LINKAGE == "complete":
            merged = tl.maximum(one, other)
        else:
            merged = (size * one + other_size * other) / (size + other_size)
        merged = tl.where((columns == stays) | (columns == goes), infinity, merged)
        tl.debug_barrier()  # all have read before any writes
        tl.store(matrix + stays * count + columns, merged, mask=inside)
        tl.store(matrix + columns * count + stays, merged, mask=inside)
        gone = tl.full([COLUMNS], infinity, tl.float32)
        tl.store(matrix + goes * count + columns, gone, mask=inside)
        tl.store(matrix + columns * count + goes, gone, mask=inside)
        tl.store(sizes + stays, size + other_size)
        leader = tl.where(leader == goes, stays, leader)
        tl.debug_barrier()  # all have written before any reads
    tl.store(all_leaders + image * count + columns, leader.to(tl.int64), mask=inside)
