"""Speed of all methods beside their host: eager, compiled, and as a CUDA graph."""

import time
from collections.abc import Iterator

import timm
import torch

import reduction
from experiments.benchmarks import speed
from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import Workplace

GOAL = 0.9
"""Least efficiency: speed-up times the share of multiply-accumulates left."""
BATCH = {"eager": 1024, "graph": 256, "compiled": 256}
SHORT = ["topk", "atc"]
"""Methods of a rehearsal."""
SLOW = ["tome", "sinkhorn", "ats", "dpcknn", "kmedoids", "atc"]
"""Methods below the goal on an H100 so far: these come first."""


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Measure every method at keep rate 0.5, those first that are known to be slow."""
    options = speed.parse(_arguments(place, job))
    torch.manual_seed(0)
    host = timm.create_model(options.host).eval().to(place.device, getattr(torch, options.dtype))
    images = torch.randn(options.batch_size, 3, *host.patch_embed.img_size)
    images = images.to(next(host.parameters())).to(memory_format=torch.channels_last)
    for method in options.methods:
        kind = f"eager in place of {job}" if place.rehearses and job != "eager" else job
        began = time.perf_counter()
        try:
            with torch.inference_mode():
                row = speed.measure(host, images, method, 1.0 if method == "deit" else 0.5, options)
        except Exception as error:  # Whatever a compiler or a graph raises: others come after it.
            found = f"{type(error).__name__}: {error}"[:200]
            yield Finding(what=f"{method}, {kind}", passed=False, found=found)
            continue
        yield _finding(kind, row, options.batch_size, time.perf_counter() - began)


def _arguments(place: Workplace, job: str) -> list[str]:
    flags = {"compiled": ["--compile"], "graph": ["--graph"], "eager": []}[job]
    if place.rehearses:  # No graphs there, and compiling takes minutes.
        flags = ["--host", "deit_tiny_patch16_224", "--batch-size", "1", "--repeats", "1"]
        return [*flags, "--methods", *SHORT]
    methods = SLOW + [name for name in reduction.METHODS if name not in SLOW]
    batch = ["--batch-size", str(BATCH[job]), "--device", "cuda", "--dtype", "bfloat16"]
    return [*batch, *flags, "--methods", *methods]


def _finding(kind: str, row: speed.SpeedRow, batch: int, seconds: float) -> Finding:
    return Finding(
        what=f"{row.method}, {batch} images, {kind}",
        found=f"efficiency {row.efficiency:.2f}{_beside_goal(row)}: speed-up {row.speed_up:.2f}, "
        f"work {row.work:.3f}, {row.images_per_second:.0f} images/s, "
        f"host {row.host_images_per_second:.0f}; {row.memory_mib:.0f} MiB, host "
        f"{row.host_memory_mib:.0f}; took {seconds:.0f} s",
        value=row.efficiency,
    )


def _beside_goal(row: speed.SpeedRow) -> str:
    return "" if row.efficiency >= GOAL else f", below {GOAL}"
