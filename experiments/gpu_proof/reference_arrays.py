"""All methods against the reference arrays, in float32 on the device; needs no test runner.

The tests do the same, and more, where pytest is installed (`tests/reduction/test_*_arrays.py`).
"""

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import Workplace, import_tests
from reduction.trace import ReductionTrace

TOLERATED = 1e-4
"""Of logits, absolute."""
LOOSE = {"gtp": 4e-3}
"""Of methods with a threshold: a probability may sit at it."""

Arrays = Mapping[str, np.ndarray]


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Compare logits and decisions with the arrays, method by method."""
    import_tests()
    torch.backends.cudnn.allow_tf32 = False  # by default CUDA computes convolutions in TF32
    cases: Any = import_module("reference_cases")
    device = torch.device(place.device)
    host = cases.reference_host()
    images = cases.tensors("images_A.npz")["images"].float().to(device)
    yield from _study(cases, host, images, every=8 if place.rehearses else 1)
    yield from _newer(cases, host, images, every=8 if place.rehearses else 1)


def _study(cases: Any, host: nn.Module, images: Tensor, *, every: int) -> Iterator[Finding]:
    arrays, extras = cases.load("cases_A_kr025_kr070.npz"), cases.tensors("extras_A.npz")
    for case, rate in cases.RUNS[::every]:
        name = cases.prefix(case, rate)
        expected = cases.arrays_of(name, arrays)
        model = cases.study_model(case, rate, host, expected, extras).to(images.device)
        logits, trace = _run(model, images)
        whole = np.ones(len(images), dtype=bool)
        differing = _decisions(expected, trace, offset=0, sorted_too=False)
        yield _finding(f"{case.method} {name}", logits, expected["logits"], whole, differing, {})


def _newer(cases: Any, host: nn.Module, images: Tensor, *, every: int) -> Iterator[Finding]:
    arrays, parameters = cases.load("newer_cases_A.npz"), cases.tensors("newer_extras_A.npz")
    facts = json.loads((cases.GOLDENS / "newer_A.json").read_text())
    for case in cases.NEWER_CASES[::every]:
        model = cases.newer_model(case, host, facts, parameters).to(images.device)
        expected = cases.arrays_of(case.name, arrays)
        logits, trace = _run(model, images)
        stable = expected["logits_stable"] == 1
        offset = int(case.method == "cropr")
        differing = _decisions(expected, trace, offset=offset, sorted_too=True)
        yield _finding(case.name, logits, expected["logits"], stable, differing, LOOSE)


@torch.no_grad()
def _run(model: Any, images: Tensor) -> tuple[np.ndarray, ReductionTrace]:
    logits, trace = model.forward_with_trace(images)
    return logits.cpu().numpy(), trace


def _decisions(
    expected: Arrays, trace: ReductionTrace, *, offset: int, sorted_too: bool
) -> list[int]:
    """Return how many decisions of each array are other ones."""
    ours = {"assign": trace.assignment, "kept_abs": trace.kept}
    differing = []
    for name, array in expected.items():
        stage, _, kind = name.rpartition("/")
        if kind not in ours or not stage.startswith("stage"):
            continue
        found = ours[kind][int(stage[5:]) + offset].cpu().numpy()
        counts = expected.get(f"{name}_decisive", np.ones_like(array)) == 1
        images = expected.get(f"{stage}/stable", np.ones(len(array))) == 1
        if kind == "kept_abs":
            differing.append(_other_tokens(found, array, images, ordered=not sorted_too))
        else:
            differing.append(int(((found != array) & counts)[images].sum()))
    return differing


def _other_tokens(
    found: np.ndarray, expected: np.ndarray, images: np.ndarray, *, ordered: bool
) -> int:
    """Return how many images keep other tokens; -1 stands for padding."""
    arranged = (lambda row: row[row >= 0]) if ordered else (lambda row: np.sort(row[row >= 0]))
    pairs = zip(found[images], expected[images], strict=True)
    return sum(not np.array_equal(arranged(one), arranged(other)) for one, other in pairs)


def _finding(
    what: str,
    logits: np.ndarray,
    expected: np.ndarray,
    images: np.ndarray,
    differing: list[int],
    loose: Mapping[str, float],
) -> Finding:
    far = float(np.abs(logits - expected)[images].max())
    allowed = loose.get(what.split("/")[0], TOLERATED)
    return Finding(
        what=what,
        passed=far <= allowed and not any(differing),
        found=f"logits differ by {far:.1e}, allowed {allowed:.0e}; {sum(differing)} other "
        f"decisions in {len(differing)} arrays",
        value=far,
    )
