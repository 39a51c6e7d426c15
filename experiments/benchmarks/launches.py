"""What the benchmark of the orchestrator measures, each in a process of its own.

python -c 'from experiments.benchmarks.launches import main; main()' PART OUTPUT.json OPTIONS.json
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from unittest import mock

import yaml
from rich.console import Console

from orchestrator.cluster.ray_setup import RAY_SETTINGS
from orchestrator.run import run_study
from orchestrator.study.selection import Options, Selection, select

ROOT = Path(__file__).parents[2]
Facts = dict[str, Any]


def main() -> None:
    """Measure the part that the command line names."""
    part, output, options = sys.argv[1:]
    os.environ.update(RAY_SETTINGS)
    facts = PARTS[part](Path(output).parent, **json.loads(options))
    Path(output).write_text(json.dumps(facts))


def bare(folder: Path, cells: int, writing: bool, logs: bool) -> Facts:
    """Run a plain Tune grid.

    Tune's output and its checkpoints are off, and processes go on with further trials: that is not
    its default, which would make it many times slower.

    Args:
        folder: Where trials and Tune write.
        cells: How many trials.
        writing: Whether each trial writes what a cell of ours does, rather than nothing.
        logs: Leave Tune as it comes: it logs every trial as CSV, JSON and for TensorBoard, and
            saves the experiment's state. Else it has a study's settings.
    """
    for name in RAY_SETTINGS:
        # How many trials are pending is always left to Tune, which knows what is best for a grid.
        if name.startswith("TUNE_") and (logs or name == "TUNE_MAX_PENDING_TRIALS_PG"):
            del os.environ[name]
    from ray import tune

    from experiments.benchmarks.idle import BareTrainable, WritingTrainable
    from orchestrator.cluster.connection import connected

    tuner = tune.Tuner(
        WritingTrainable if writing else BareTrainable,
        param_space={"seed": tune.grid_search(list(range(cells))), "folder": str(folder / "cells")},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name="bare",
            storage_path=str(folder),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    with connected(None, verbose=False), Memory() as memory:
        facts, results = costs(tuner.fit)
    ended = sum(result.metrics["done"] for result in results)
    return facts | {"ended": ended, "kb_per_cell": memory.kb_per_cell()}


def ours(folder: Path, cells: int) -> Facts:
    """Run a study of cells of no work up to the end of the training stage."""
    study = write_study(folder, cells)
    facts = launched(study)
    return facts | {"ended": sum(cell.is_trained() for cell in stored(study))}


def slots(folder: Path, cells: int, gpu: float) -> Facts:
    """Run cells that only wait, for unequal times; return the share of the slots' time in use."""
    study = write_study(folder, cells, gpu=gpu)
    facts = launched(study)
    reports = [cell.last_report() for cell in stored(study)]
    number = json.loads(os.environ["RAY_OVERRIDE_RESOURCES"])["CPU"]
    spans = [(report["began"], report["time"]) for report in reports]
    processes = len({report["process"] for report in reports})
    return facts | {"ended": len(spans), "busy": busy_share(spans, number), "processes": processes}


class Memory:
    """Watches this process's memory as trials end."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        """By how many trials have ended."""
        self._patch: Any = None

    def __enter__(self) -> Self:
        from ray.tune.execution.tune_controller import TuneController

        on_step_end = TuneController.on_step_end

        def watched(controller: Any) -> None:
            on_step_end(controller)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self._bytes[len(controller._stopped_trials)] = pages * os.sysconf("SC_PAGE_SIZE")

        self._patch = mock.patch.object(TuneController, "on_step_end", watched)
        self._patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.stop()

    def kb_per_cell(self) -> float:
        """Return by how much the memory grew for every trial, once a fifth of them had ended."""
        last = max(self._bytes)
        first = min(count for count in self._bytes if count >= last // 5)
        return (self._bytes[last] - self._bytes[first]) / max(1, last - first) / 1000


def busy_share(spans: list[tuple[float, float]], number: int) -> float:
    """Return the share of the slots' time in use while cells were left to begin.

    Args:
        spans: Begin and end of every cell in seconds, at least one cell more than slots.
        number: How many slots there are. Time counts from the first moment when all are in use.
    """
    begins = sorted(begin for begin, _ in spans)
    first, last = begins[number - 1], begins[-1]
    used = sum(max(0.0, min(end, last) - max(begin, first)) for begin, end in spans)
    return used / (number * (last - first))


def restart(folder: Path, cells: int, repeats: int) -> Facts:
    """Run a finished study again; return the median of the seconds that takes."""
    study = write_study(folder, cells)
    finish(select(Options(study=str(study), storage=folder)))
    command = [sys.executable, ROOT / "experiments/full_grid.py", "--study", study]
    command += ["--storage", folder]
    # The first writes the page, and what later ones know of the files.
    outcomes = [timed(lambda: finished(command)) for _ in range(repeats + 1)]
    reading, _ = timed(lambda: finished([sys.executable, "-c", "import ray"]))
    return {
        "seconds": statistics.median(seconds for seconds, _ in outcomes[1:]),
        "first": outcomes[0][0],
        "import_ray": reading,
        "last_lines": outcomes[-1][1].splitlines()[-2:],
    }


def writes(folder: Path, megabytes: float, epochs: int, reports: int) -> Facts:
    """Write what a cell writes; return the seconds, those of putting it into bytes included.

    Args:
        folder: Where to write.
        megabytes: Size of the weights. A resume state is four times as large: the weights, their
            average and the optimiser's two moments.
        epochs: How often weights are written, and but for the last epoch the state.
        reports: How often a line is added to the log.
    """
    import torch
    from safetensors.torch import save

    from trainables.cell.cell_folder import CellFolder
    from trainables.trial.cell_training import as_bytes

    def tensors() -> dict[str, torch.Tensor]:  # As many as DeiT-Tiny has.
        size = int(megabytes * 1e6 / 4 / 152)
        return {f"tensor {number}": torch.randn(size) for number in range(152)}

    weights = tensors()
    state = {name: tensors() for name in ("model", "ema", "first moments", "second moments")}
    cell = CellFolder(folder / "cell")

    def write() -> None:
        for _ in range(reports):
            cell.append_log({"loss": 1.0})
        for epoch in range(1, epochs + 1):
            cell.save_best(save(weights), {"epoch": epoch})
            if epoch < epochs:
                cell.save_last(epoch, as_bytes(state))
        cell.write_result({"accuracy": 50.0})

    return {"seconds": timed(write)[0]}


def write_study(folder: Path, cells: int, gpu: float = 0.0) -> Path:
    """Write a study of so many cells, which differ in their seed; return its file."""
    smoke = yaml.safe_load((ROOT / "experiments/studies/smoke.yaml").read_text())
    grid = {"dataset": ["digits"], "capacity": ["tiny"], "method": ["topk"], "keep_rate": [0.5]}
    study = {
        "name": "idle",
        "defaults": {"reduction_loc": [3, 6, 9], "recipe": "smoke"},
        "grids": [grid | {"seed": list(range(cells))}],
        "recipes": smoke["recipes"],
        "resources": {"tiny": {"cpu": 1, "gpu": gpu}},
    }
    file = folder / "idle.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def launched(study: Path) -> Facts:
    """Train the study beside its file, whose cells are of no work; return how that went."""
    from experiments.benchmarks.idle import IdleTrainable
    from orchestrator.training import experiment as training

    train, facts = training.TuneExperiment.run, {}

    def run(*arguments: Any, **options: Any) -> None:
        facts.update(costs(lambda: train(*arguments, **options))[0])

    options = Options(study=str(study), storage=study.parent, phases=("train",))
    with (
        mock.patch.object(training, "FinetuneTrainable", IdleTrainable),
        mock.patch.object(training.TuneExperiment, "run", run),
        Memory() as memory,
    ):
        launch, status = timed(lambda: run_study(options, Console(quiet=True)))
    return facts | {"launch": launch, "status": status, "kb_per_cell": memory.kb_per_cell()}


def stored(study: Path) -> list[Any]:
    """Return the folders of the study's cells."""
    selection = select(Options(study=str(study), storage=study.parent))
    return [selection.stored(cell) for cell in selection.cells]


def finish(selection: Selection) -> None:
    """Leave in the store what a finished study leaves, the page aside."""
    import numpy as np
    import pandas as pd

    from analysis.tables import SCHEMAS, table
    from experiments.benchmarks.idle import IdleTraining
    from orchestrator.provenance import provenance
    from orchestrator.results.sample_store import publish_samples
    from orchestrator.results.table_store import fingerprint, publish_tables
    from trainables.cell.json_records import Metrics

    store, cells = selection.store, [selection.stored(cell) for cell in selection.cells]
    store.create(selection.study.model_dump(mode="json") | provenance(), selection.cells)
    metrics: Metrics = {
        "metric": "top1",
        "accuracy": 50.0,
        "images": 360,
        "gmacs": 0.1,
        "tokens": {},
    }
    images = pd.DataFrame({"image": range(360), "target": 0, "class_1": 0})
    patterns = {"image": np.arange(360), "grid": np.array([8, 8]), "depth": np.array(12)}
    patterns |= {f"kept_{block}": np.zeros((360, 8), np.uint8) for block in (3, 6, 9)}
    arrays = {"patterns": patterns, "features": {"image": np.arange(360)}}
    for cell in cells:
        IdleTraining(str(cell.path), cell.id).step()
        for evaluation in cell.evaluations().values():
            evaluation.write(metrics, images, arrays)
        cell.discard_states()
    inputs = fingerprint(cells)
    publish_tables(store, {name: table(name, []) for name in SCHEMAS}, inputs)
    publish_samples(store, [], inputs)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def costs(call: Callable[[], Any]) -> tuple[Facts, Any]:
    """Return the seconds of a call by the clock and of this process's CPU time, and its result."""
    before = time.process_time()
    seconds, result = timed(call)
    return {"seconds": seconds, "cpu": time.process_time() - before}, result


def finished(command: list[Any]) -> str:
    """Return what a command prints; it must succeed."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise RuntimeError(f"status {ended.returncode}: {ended.stderr[-2000:]}")
    return ended.stdout


PARTS: dict[str, Callable[..., Facts]] = {
    "bare": bare,
    "ours": ours,
    "slots": slots,
    "restart": restart,
    "writes": writes,
}
