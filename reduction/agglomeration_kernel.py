"""Agglomerative clustering by one Triton program an image; only imported where it is to run."""

import torch
import triton
import triton.language as tl
from torch import Tensor

LINKAGES = {"average": 0, "single": 1, "complete": 2}


def merged_by_kernel(distance: Tensor, merges: int, linkage: str) -> Tensor:
    """Return what `agglomeration.merged_one_by_one` does of float32 `distance`, on its device."""
    batch, count = distance.shape[:2]
    # What is not a number is the least there is, and the kernel knows only numbers.
    work = torch.nan_to_num(distance, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    work = work.contiguous()
    leader = torch.empty(batch, count, dtype=torch.int64, device=distance.device)
    block = triton.next_power_of_2(count)
    merge_nearest[(batch,)](
        work,
        leader,
        count,
        merges,
        LINKAGE=LINKAGES[linkage],
        BLOCK=block,
        num_warps=max(1, block // 256),
        enable_fp_fusion=False,  # A fused product rounds once where torch rounds twice.
    )
    return leader


@triton.jit
def merge_nearest(
    distance: tl.tensor,
    leader: tl.tensor,
    count: tl.tensor,
    merges: tl.tensor,
    LINKAGE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """Merge the two nearest clusters of an image, so many times.

    All minima are over vectors, and the place of one is the least at which its value is found:
    Triton's own places of minima went wrong on a GPU where a matrix was reshaped before. The least
    of each row is kept; after a merge only rows that had it in a column that changed are read anew.

    Args:
        distance: [B, N, N] float32, infinite on the diagonal; changed.
        leader: [B, N] int64, the first member of the cluster of each token; written.
        count: N, at most BLOCK.
        merges: In 0..N - 1.
        LINKAGE: A value of `LINKAGES`.
        BLOCK: A power of two.
    """
    image = tl.program_id(0).to(tl.int64)
    distance += image * count * count
    place = tl.arange(0, BLOCK)
    there = place < count
    infinity = float("inf")
    sizes = tl.full([BLOCK], 1.0, tl.float32)
    first = place
    least = tl.full([BLOCK], infinity, tl.float32)
    for each in range(count):
        values = tl.load(distance + each * count + place, mask=there, other=infinity)
        least = tl.where(place == each, tl.min(values, axis=0), least)
    for _ in range(merges):
        smallest = tl.min(least, axis=0)
        row = tl.min(tl.where((least == smallest) & there, place, count - 1), axis=0)
        values = tl.load(distance + row * count + place, mask=there, other=infinity)
        column = tl.min(tl.where((values == smallest) & there, place, count - 1), axis=0)
        stays, goes = tl.minimum(row, column), tl.maximum(row, column)

        one = tl.load(distance + stays * count + place, mask=there, other=infinity)
        other = tl.load(distance + goes * count + place, mask=there, other=infinity)
        if LINKAGE == 1:
            merged = tl.minimum(one, other)
        elif LINKAGE == 2:
            merged = tl.maximum(one, other)
        else:
            weight = tl.sum(tl.where(place == stays, sizes, 0.0), axis=0)
            other_weight = tl.sum(tl.where(place == goes, sizes, 0.0), axis=0)
            sizes = tl.where(place == stays, weight + other_weight, sizes)
            total = tl.full([BLOCK], 0.0, tl.float32) + (weight + other_weight)
            merged = tl.div_rn(weight * one + other_weight * other, total)
        merged = tl.where((place == stays) | (place == goes), infinity, merged)
        first = tl.where(first == goes, stays, first)

        # Rows that are gone have no least; those that had it in a column that changes look anew.
        at_stays = tl.load(distance + place * count + stays, mask=there, other=infinity)
        at_goes = tl.load(distance + place * count + goes, mask=there, other=infinity)
        anew = ((at_stays == least) | (at_goes == least)) & (least < infinity)
        anew = (anew & (place != stays) & (place != goes)).to(tl.int32)
        least = tl.minimum(least, merged)
        least = tl.where(place == stays, tl.min(merged, axis=0), least)
        least = tl.where(place == goes, infinity, least)

        tl.debug_barrier()  # What is read above is written below by other threads.
        tl.store(distance + stays * count + place, merged, mask=there)
        tl.store(distance + place * count + stays, merged, mask=there)
        tl.store(distance + goes * count + place, infinity, mask=there)
        tl.store(distance + place * count + goes, infinity, mask=there)
        tl.debug_barrier()

        left = tl.sum(anew, axis=0)
        while left > 0:
            each = tl.min(tl.where(anew > 0, place, count - 1), axis=0)
            values = tl.load(distance + each * count + place, mask=there, other=infinity)
            least = tl.where(place == each, tl.min(values, axis=0), least)
            anew = tl.where(place == each, 0, anew)
            left -= 1
    tl.store(leader + image * count + place, first.to(tl.int64), mask=there)
