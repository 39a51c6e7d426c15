"""ATC's kernel against the plain code that it stands for, and how long both take."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import Workplace
from reduction.agglomeration import LINKAGES, merged_one_by_one, trial_distances
from reduction.agglomeration_kernel import merged_by_kernel
from reduction.methods.atc import cosine_distances
from reduction.timing import synchronise

TOKENS = (196, 98, 49)
IMAGES = 256


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Merge half of the tokens of random images, and of distances of which many are equal.

    A rehearsal interprets the kernel.
    """
    for count in (6,) if place.rehearses else TOKENS:
        for linkage in LINKAGES:
            distance = _distances(1 if place.rehearses else IMAGES, count).to(place.device)
            merges = count // 2
            found, seconds = _timed(merged_by_kernel, distance, merges, linkage)
            expected, plain = _timed(merged_one_by_one, distance, merges, linkage)
            other = int((found != expected).any(dim=1).sum())
            yield Finding(
                what=f"{linkage} linkage, {len(distance)} images of {count} tokens",
                passed=other == 0,
                found=f"{other} images merge otherwise; {1e3 * seconds:.1f} ms, "
                f"plain code {1e3 * plain:.1f} ms",
                value=plain / seconds,
            )


def _distances(images: int, count: int) -> Tensor:
    features = torch.randn(images, count, 64, generator=torch.Generator().manual_seed(0))
    cosine = cosine_distances(features)
    cosine.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return torch.cat((cosine, trial_distances(count)))


def _timed(
    run: Callable[[Tensor, int, str], Tensor], distance: Tensor, merges: int, linkage: str
) -> tuple[Tensor, float]:
    """Return what a run finds, and how long it takes once it has been compiled."""
    run(distance, merges, linkage)
    synchronise(distance.device)
    began = time.perf_counter()
    found = run(distance, merges, linkage)
    synchronise(distance.device)
    return found, time.perf_counter() - began
