"""What the benchmark of the analysis measures, each part in a process of its own.

python -c 'from experiments.benchmarks.analysis_parts import main; main()' PART OPTIONS
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import ray
from sklearn.metrics import homogeneity_completeness_v_measure

from analysis.comparisons import KINDS
from analysis.patterns import iou, kept_masks, partition_similarity
from analysis.records import CellRecord
from analysis.token_depth import token_depth
from experiments.benchmarks.counting_path import CountingPath, reads
from orchestrator.cluster.connection import connected
from orchestrator.console import ConsoleContext, new_console
from orchestrator.results.cached_comparisons import CachedComparisons, jobs
from orchestrator.results.comparing import ComparisonContext, find
from orchestrator.results.tasks import find_facts, load_cell
from orchestrator.store.store import Store

Arrays = dict[str, np.ndarray]

PATCHES, BLOCKS = 196, 12
KEPT = {3: 137, 6: 96, 9: 67}
"""Patches that each stage leaves at a keep rate of 0.7."""
RECORD = CellRecord(
    cell_id="", dataset="made", method="", family="pruning", capacity="base",
    keep_rate=0.7, stages=tuple(KEPT), seed=0, state="done",
)  # fmt: skip


def main() -> None:
    """Measure the part named in the command line; print its rows as JSON."""
    part, options = sys.argv[1:]
    rows = list(PARTS[part](argparse.Namespace(**json.loads(options))))
    sys.stdout.write(json.dumps(rows))


def speed(options: argparse.Namespace) -> Iterable[dict[str, object]]:
    """Compare metrics with loops that do the same for one image after the other."""
    a, b = (patterns_of(options.images, seed) for seed in (0, 1))
    stages = [(a[f"kept_{block}"], b[f"kept_{block}"]) for block in KEPT]
    groups = [(a[f"group_{block}"], b[f"group_{block}"]) for block in KEPT]
    kept = {block: a[f"kept_{block}"] for block in KEPT}

    def iou_of_stages() -> Any:
        return [iou(*(kept_masks(kept, PATCHES) for kept in stage)) for stage in stages]

    def v_measures() -> Any:
        return [partition_similarity(*stage).v_measure for stage in groups]

    few = [(a[: options.images // 10], b[: options.images // 10]) for a, b in groups]
    compared = (
        ("IoU", "Python's sets", 20, iou_of_stages, lambda: _looped_iou(stages), 1),
        ("V-measure", "scikit-learn", 100, v_measures, lambda: _looped_v(few), 10),
        (
            *("token depth", "Python's sets", 30),
            *(lambda: token_depth(kept, PATCHES, BLOCKS), lambda: _looped_depth(kept), 1),
        ),
    )
    for name, of, target, ours, theirs, scale in compared:
        seconds, found = _least_time(ours, 20)
        looped, expected = _least_time(theirs, 3)
        np.testing.assert_allclose(_cut(found, len(expected[0])), expected, atol=1e-9)
        ratio, run = looped * scale / seconds, f"{looped * scale:.3g} s over {seconds:.3g} s"
        yield _row(f"{name} over a loop with {of}", f"{ratio:.0f} times", target, run)


def _looped_iou(stages: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[list[float]]:
    found = []
    for stage in stages:
        pairs = zip(*(kept.tolist() for kept in stage), strict=True)
        sets = ((set(one), set(other)) for one, other in pairs)
        found.append([len(one & other) / len(one | other) for one, other in sets])
    return found


def _looped_v(groups: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[list[float]]:
    return [
        [homogeneity_completeness_v_measure(x, y)[2] for x, y in zip(a, b, strict=True)]
        for a, b in groups
    ]


def _looped_depth(kept: Mapping[int, np.ndarray]) -> list[list[int]]:
    lists = {block: of_stage.tolist() for block, of_stage in kept.items()}
    patches, found = set(range(PATCHES)), []
    for image in range(len(next(iter(lists.values())))):
        depth = [BLOCKS] * PATCHES
        for block in sorted(kept, reverse=True):
            for patch in patches - set(lists[block][image]):
                depth[patch] = block
        found.append(depth)
    return found


def _cut(found: Any, count: int) -> Any:
    return [values[:count] for values in found] if isinstance(found, list) else found


def _least_time(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the least CPU time of some runs, and what the work returned."""
    least, made = float("inf"), None
    for _ in range(repeats):
        began = time.process_time()
        made = work()
        least = min(least, time.process_time() - began)
    return least, made


def size(options: argparse.Namespace) -> Iterable[dict[str, object]]:
    """Compare artifacts with JSON."""
    patterns = patterns_of(options.images, 0)
    parts = {
        "kept patches": ("patterns", _named(patterns, "kept")),
        "groups": ("patterns", _named(patterns, "group")),
        "CLS features": ("features", features_of(options.images, options.features, 0)),
    }
    with TemporaryDirectory() as folder:
        for name, (kind, arrays) in parts.items():
            stored = Store(Path(folder)).cell(name)
            stored.evaluations()[None].write({}, pd.DataFrame(), {kind: arrays})
            taken = len(stored.read_artifact(f"{kind}.npz"))
            facts = _as_json(arrays, options.images)
            run = f"{taken / 1e6:.1f} MB, JSON {facts / 1e6:.1f} MB"
            yield _row(f"{name}: JSON over the artifact", f"{facts / taken:.0f} times", 20, run)


def _as_json(arrays: Arrays, images: int) -> int:
    """Return the bytes of the arrays as the published study writes them; of some, scaled up."""
    few = min(images, 500)
    facts = {
        str(image): {
            f"Stage-{name.rpartition('_')[2]}": {"values": values[image].tolist()}
            for name, values in arrays.items()
        }
        for image in range(few)
    }
    return len(json.dumps(facts, indent=4)) * images // few


def memory(options: argparse.Namespace) -> Iterable[dict[str, object]]:
    """Load and compare two cells in fresh processes of Ray, as the engine does."""
    with TemporaryDirectory() as folder, connected(None, verbose=False):
        store = Store(Path(folder) / "study")
        cells = [
            _made(store, name, options.many_images, options.features, seed)
            for seed, name in enumerate("ab")
        ]
        fresh = ray.remote(num_cpus=1, max_calls=1, num_returns=2)(_with_peak)
        loads = (fresh.remote(load_cell, store.path, cell) for cell in cells)
        loaded, peaks = zip(*loads, strict=True)
        began = time.perf_counter()
        facts, peak = fresh.remote(find_facts, KINDS, *loaded)
        found = ray.get(facts)
        seconds = time.perf_counter() - began
        assert {kind: len(found[kind]) for kind in KINDS} == {
            "pruning": len(KEPT), "merging": len(KEPT), "features": len(KEPT) + 1
        }  # fmt: skip
        what = f"{options.many_images} images, {len(KEPT) + 1} blocks of {options.features}"
        loading = max(ray.get(list(peaks)))
        yield _row("peak memory of loading a cell, GB", f"{loading:.2f}", "2 at most", what)
        run = f"the same; {seconds:.0f} s, loading included"
        comparing = ray.get(peak)
        yield _row("peak memory of comparing a pair, GB", f"{comparing:.2f}", "2 at most", run)


def _with_peak(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Return what some work returns, and the most memory its process ever held, in GB.

    What it shares with other processes counts in full.
    """
    made = work(*arguments)
    return made, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def reading(options: argparse.Namespace) -> Iterable[dict[str, object]]:
    """Count what is read when more and more cells are compared."""
    with TemporaryDirectory() as folder, connected(None, verbose=False):
        for count in options.cells:
            study = CountingPath(folder) / str(count) / "study"
            store = Store(study)
            cells = [_made(store, f"m{number}", 200, 16, number) for number in range(count)]
            evaluations = {c.cell_id: store.cell(c.cell_id).evaluation_digest() for c in cells}
            work = jobs(cells, evaluations, ["models"])
            reads(study)
            context = ComparisonContext(cpus=2, launch=ConsoleContext(new_console()))
            find(store, work, CachedComparisons(store.comparisons), context)
            _, sizes = reads(study)
            read = sum(size for name, size in sizes.items() if name.endswith(".npz"))
            there = sum(path.stat().st_size for path in study.glob("cells/*/*.npz"))
            run = f"{read / 1e6:.2f} MB for {len(work) - count} pairs"
            name = f"artifact bytes read over those there are, {count} cells"
            yield _row(name, f"{read / there:.2f}", "1", run)


def _made(store: Store, name: str, images: int, features: int, seed: int) -> CellRecord:
    """Evaluate a cell of some name, as its files tell."""
    arrays = {
        "patterns": patterns_of(images, seed),
        "features": features_of(images, features, seed),
    }
    answers = pd.DataFrame({"image": np.arange(images), "target": 0, "class_1": 0})
    store.cell(name, ()).evaluations()[None].write({}, answers, arrays)
    return replace(RECORD, cell_id=name, method=name)


def patterns_of(images: int, seed: int) -> Arrays:
    """Return patches kept and groups made at random, as many as at a keep rate of 0.7."""
    random = np.random.default_rng(seed)
    order = random.permuted(np.tile(np.arange(PATCHES, dtype=np.uint8), (images, 1)), axis=1)
    found = {"image": np.arange(images), "grid": np.array([14, 14]), "depth": np.array(BLOCKS)}
    for block, count in KEPT.items():
        found[f"tokens_{block}"] = np.full(images, count, dtype=np.int16)
        found[f"kept_{block}"] = order[:, :count]
        found[f"group_{block}"] = order % count
    return found


def features_of(images: int, width: int, seed: int) -> Arrays:
    """Return CLS features made at random, of all stages and the last block."""
    random = np.random.default_rng(seed)
    blocks = (*KEPT, BLOCKS - 1)
    return {f"cls_{b}": random.standard_normal((images, width), np.float32) for b in blocks}


def _named(arrays: Arrays, kind: str) -> Arrays:
    return {name: values for name, values in arrays.items() if name.startswith(kind)}


def _row(measured: str, value: str, target: Any, run: str) -> dict[str, object]:
    least = f"at least {target}" if isinstance(target, int) else target
    return {"measured": measured, "value": value, "target": least, "run": run}


PARTS = {"speed": speed, "size": size, "memory": memory, "reads": reading}
