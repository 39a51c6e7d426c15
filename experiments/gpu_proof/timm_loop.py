"""This project's training loop beside a loop the way timm's own script goes."""

from collections.abc import Iterator

from experiments.benchmarks import training
from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import Workplace

TOY = "--image-size 64 --batch-size 2 --repeats 1 --threads 1"
REAL = "--device cuda --batch-size 256 --repeats 9"
HOSTS = ("deit_small_patch16_224", "deit_tiny_patch16_224")


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Train DeiT-S and DeiT-T by both loops in turn."""
    for host in HOSTS[1:] if place.rehearses else HOSTS:
        arguments = [*(TOY if place.rehearses else REAL).split(), "--host", host]
        row = training.Benchmark(training.parse(arguments)).plain_host()
        found = f"{row.value:.2f} times the images/s, {row.target}; {row.details}"
        yield Finding(what=row.measured, found=found, value=row.value)
