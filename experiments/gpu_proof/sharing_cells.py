"""Cells that train at once on one GPU, with and without NVIDIA's multi-process service."""

import shutil
from collections.abc import Iterator

from experiments.benchmarks import sharing
from experiments.benchmarks.results import Measurement
from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import Workplace

TOY = "--image-size 32 --batch-size 2 --steps 1 --repeats 1 --threads 2 --cells 2"
REAL = "--device cuda --batch-size 64 --steps 12 --repeats 3 --cells 2 4"


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Compare 2 and 4 cells at once with one after the other."""
    options = sharing.parse((TOY if place.rehearses else REAL).split())
    yield from map(_finding, sharing.measure(options, through_mps=False))
    if place.rehearses or not shutil.which(sharing.MPS):
        why = "there is no GPU" if place.rehearses else f"{sharing.MPS} is not installed"
        yield Finding(what="the same through MPS", found=why, ran=False)
        return
    with sharing.mps():
        yield from map(_finding, sharing.measure(options, through_mps=True))


def _finding(row: Measurement) -> Finding:
    found = f"{row.value:.2f} times the images/s, {row.target}; {row.details}"
    return Finding(what=row.measured, found=found, value=row.value)
