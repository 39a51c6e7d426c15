"""Calibration: each kind of cell with `auto` resources is measured once, for a few steps.

STORAGE/calibration/DIGEST.json   sealed: a kind of cell and what it takes, for all studies
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from orchestrator.study.study import AUTO, Study
from orchestrator.training.shares import TYPE, Hardware, Reservation
from orchestrator.watching.launch_context import LaunchContext
from trainables.cell.cell import Cell
from trainables.cell.json_records import CalibrationRecord, TrainingCost
from trainables.storage.files import DamagedFileError, digest, read_sealed_json, write_sealed_json
from trainables.storage.paths import StorePath

FORMAT = 1
"""Increased when what is measured changes."""


@dataclass(frozen=True)
class CalibrationJob:
    """One measurement."""

    cell: Cell
    """The cell of its kind that keeps most tokens."""
    device: str
    """Type of the GPUs, or `CPU`."""
    threads: int

    @property
    def name(self) -> str:
        """Describes what is measured."""
        recipe = self.cell.recipe
        taught = "" if recipe.distillation == "none" else ", taught"
        return (
            f"{self.cell.method} on {self.cell.host}, {recipe.image_size} px, "
            f"{recipe.batch_size} images{taught}"
        )


class Calibrations:
    """The measurements of a storage.

    Args:
        folder: Holds the records.
    """

    def __init__(self, folder: StorePath) -> None:
        self._folder = folder

    def read(self, job: CalibrationJob) -> CalibrationRecord | None:
        """Return what such a cell takes, None if it has to be measured."""
        try:
            record = cast(CalibrationRecord | None, read_sealed_json(self._path(job)))
        except DamagedFileError:
            return None
        # A measurement holds for lower keep rates, because fewer tokens take less memory.
        return record if record and record["keep_rate"] >= _most(job.cell) else None

    def write(self, job: CalibrationJob, measured: TrainingCost) -> None:
        """Record what was measured."""
        kind, rate = _kind(job.cell, job.device, job.threads), _most(job.cell)
        write_sealed_json(self._path(job), {"kind": kind, "keep_rate": rate, **measured})

    def of_all_devices(self, cell: Cell) -> Iterator[CalibrationRecord]:
        """Yield what a cell's kind takes, for each device on which that was measured."""
        for record in self._records:
            kind = record["kind"]
            if kind == _kind(cell) | {name: kind[name] for name in ("device", "threads")}:
                yield record

    @cached_property
    def _records(self) -> list[CalibrationRecord]:
        found = []
        for path in self._folder.glob("*.json"):
            with suppress(DamagedFileError):
                found.append(cast(CalibrationRecord | None, read_sealed_json(path)))
        return [record for record in found if record]

    def _path(self, job: CalibrationJob) -> StorePath:
        kind = json.dumps(_kind(job.cell, job.device, job.threads), sort_keys=True)
        return self._folder / f"{digest(kind.encode())[:16]}.json"


@dataclass(frozen=True)
class Calibrating:
    """Measures the cells of a launch whose resources are `auto`."""

    study: Study
    hardware: Hardware
    known: Calibrations
    weights: Path | None
    context: LaunchContext

    def reserved(self, cells: Sequence[Cell]) -> dict[str, Reservation]:
        """Return what each of the cells reserves, by id; measure what is unknown."""
        jobs = self._jobs(cells)
        self._measure([job for jobs in jobs.values() for job in jobs if not self.known.read(job)])
        shares: dict[str, Reservation] = {}
        for cell in cells:
            wanted = self.study.reserved(cell.capacity)
            taken = max(map(self._taken, jobs.get(kind_of(cell), [])), default=float("inf"))
            shares[cell.id] = self.hardware.reserved(wanted, taken)
        return shares

    def _jobs(self, cells: Iterable[Cell]) -> dict[str, list[CalibrationJob]]:
        """Return the measurements for each kind of cell that has to be calibrated."""
        kinds: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            if self.hardware.calibrates(self.study.reserved(cell.capacity)):
                kinds[kind_of(cell)].append(cell)
        largest = {kind: max(of, key=_most) for kind, of in kinds.items()}
        return {
            kind: [
                CalibrationJob(cell, device, self._threads(cell)) for device in self.hardware.memory
            ]
            for kind, cell in largest.items()
        }

    def _threads(self, cell: Cell) -> int:
        cpu = self.study.reserved(cell.capacity).cpu
        return 1 if cpu == AUTO else max(1, int(cpu))

    def _taken(self, job: CalibrationJob) -> float:
        """Return the share of a GPU's memory, or of main memory in CPUs, that cells take."""
        record = self.known.read(job)
        if record is None:
            return float("inf")
        total = record["device_bytes"] or self.hardware.memory[job.device]
        return float(record["peak_bytes"] / total) if total else float("inf")

    def _measure(self, jobs: Sequence[CalibrationJob]) -> None:
        """Measure each on a GPU of its own, several at once, until the launch is stopping."""
        if not jobs:
            return
        self.context.note(f"calibrating {len(jobs)} kinds of cells with `auto` resources")
        by_name = {f"{job.device}: {job.name}": job for job in jobs}
        for name, outcome in self._outcomes(by_name):
            self._take(by_name[name], outcome)

    def _outcomes(self, jobs: Mapping[str, CalibrationJob]) -> Iterator[tuple[str, Any]]:
        import ray  # A dry run reads calibrations without Ray.

        from orchestrator.cluster.task_pool import Call, TaskPool

        gpu = 1.0 if self.hardware.has_gpus else 0.0
        weights = str(self.weights) if self.weights else None

        def call(name: str, job: CalibrationJob) -> Call:
            typed = job.device not in ("CPU", "GPU")
            options = {"resources": {f"{TYPE}{job.device}": 0.001}} if typed else {}
            return Call(name, (job.cell.model_dump_json(), weights, gpu, job.threads), options)

        measure = ray.remote(num_cpus=1, num_gpus=gpu, max_retries=0)(measured)
        pool = TaskPool(measure, limit=len(jobs), verb="calibrate")
        calls = [call(name, job) for name, job in jobs.items()]
        yield from pool.outcomes(
            calls, stopping=lambda: self.context.stopping, tick=self.context.tick
        )

    def _take(self, job: CalibrationJob, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            reason = str(outcome).strip().splitlines()[-1][:200]
            all_there_is = "a whole GPU" if self.hardware.has_gpus else "all CPUs of a node"
            self.context.note(
                f"{job.name}: calibration failed, so it reserves {all_there_is} ({reason})"
            )
            return
        self.known.write(job, outcome)
        wanted = self.study.reserved(job.cell.capacity)
        share = self.hardware.reserved(wanted, self._taken(job))
        self.context.note(f"{job.name}: {in_numbers(outcome)} on {job.device}: reserves {share}")


def kind_of(cell: Cell) -> str:
    """Return what identifies cells that take about the same memory, on any device."""
    return json.dumps(_kind(cell), sort_keys=True)


def in_numbers(measured: TrainingCost) -> str:
    """Describe what was measured."""
    gib, milliseconds = measured["peak_bytes"] / 2**30, measured["seconds_an_image"] * 1000
    return f"{gib:.2f} GiB, {milliseconds:.3g} ms an image"


def measured(cell: str, weights: str | None, gpu: float, threads: int) -> TrainingCost:
    """Measure in a Ray task; see `measure_apart`."""
    from trainables.trial.calibration import measure_apart

    return measure_apart(cell, weights, gpu, threads)


def _most(cell: Cell) -> float:
    """Return the keep rate; cells with another budget are of a kind of their own."""
    return 1.0 if cell.keep_rate is None else cell.keep_rate


def _kind(cell: Cell, device: str = "", threads: int = 0) -> dict[str, object]:
    recipe = cell.recipe
    distils = recipe.distillation != "none"
    adapts = {"lora_rank": recipe.lora_rank} if recipe.backbone == "lora" else {}
    # Records of older versions are of backbones that train, and say nothing about it.
    backbone = {} if recipe.backbone == "full" else {"backbone": recipe.backbone}
    return {
        **backbone,
        **adapts,
        **({} if cell.schedule is None else {"schedule": cell.schedule}),
        "method": cell.method,
        "options": cell.options,
        "host": cell.host,
        "reduction_loc": list(cell.reduction_loc),
        "image_size": recipe.image_size,
        "batch_size": recipe.batch_size,
        "accumulates": recipe.accumulation > 1,
        "precision": recipe.precision,
        "averages": recipe.ema_decay is not None,
        "drops_paths": recipe.drop_path > 0,
        "compile": recipe.compile,
        "grad_checkpointing": recipe.grad_checkpointing,
        "distillation": recipe.distillation,
        "teacher": recipe.teacher.format(capacity=cell.capacity) if distils else None,
        "device": device,
        "threads": threads,
        "format": FORMAT,
        "torch": version("torch"),
        "timm": version("timm"),
    }
