"""Calibration: cells with `auto` resources are measured once, a few steps of each kind of cell.

STORAGE/calibration/DIGEST.json   sealed: the kind of cell and what it takes, for all studies
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.packing.sharing import TYPE, Hardware, Reserved
from orchestrator.study import AUTO, Study
from orchestrator.watching.progress import Progress
from trainables.cell import Cell
from trainables.files import DamagedFileError, digest, read_sealed_json, write_sealed_json
from trainables.store_path import StorePath

if TYPE_CHECKING:
    from orchestrator.cluster.lane import Lane

FORMAT = 1
"""Raised when what is measured changes."""

Record = dict[str, Any]
"""`kind`, `keep_rate` and the fields of `trainables.calibration.Measured`."""


@dataclass(frozen=True)
class Job:
    """One measurement: what is measured, and on which device."""

    cell: Cell
    """Of its kind the one that keeps most tokens."""
    device: str
    """Type of the GPUs, or `CPU`."""
    threads: int

    @property
    def name(self) -> str:
        """What is measured, in words."""
        recipe = self.cell.recipe
        taught = "" if recipe.distillation == "none" else ", taught"
        return (
            f"{self.cell.method} on {self.cell.host}, {recipe.image_size} px, "
            f"{recipe.batch_size} images{taught}"
        )


class Calibrations:
    """What has been measured in a storage.

    Args:
        folder: Where the records are kept.
    """

    def __init__(self, folder: StorePath) -> None:
        self._folder = folder

    def read(self, job: Job) -> Record | None:
        """Return what such a cell takes, None where it has to be measured first."""
        try:
            record = read_sealed_json(self._path(job))
        except DamagedFileError:
            return None
        # More tokens take more memory.
        return record if record and record["keep_rate"] >= job.cell.keep_rate else None

    def write(self, job: Job, measured: Mapping[str, Any]) -> None:
        """Keep what was measured."""
        kind, rate = _kind(job.cell, job.device, job.threads), job.cell.keep_rate
        write_sealed_json(self._path(job), {"kind": kind, "keep_rate": rate, **measured})

    def of_all_devices(self, cell: Cell) -> Iterator[Record]:
        """Yield what a cell's kind takes on each device on which that was measured."""
        for record in self._records:
            if record["kind"] == _kind(cell, record["kind"]["device"], record["kind"]["threads"]):
                yield record

    @cached_property
    def _records(self) -> list[Record]:
        found = []
        for path in self._folder.glob("*.json"):
            with suppress(DamagedFileError):
                found.append(read_sealed_json(path))
        return [record for record in found if record]

    def _path(self, job: Job) -> StorePath:
        kind = json.dumps(_kind(job.cell, job.device, job.threads), sort_keys=True)
        return self._folder / f"{digest(kind.encode())[:16]}.json"


@dataclass(frozen=True)
class Calibrating:
    """Measures the cells of a launch whose resources are `auto`."""

    study: Study
    hardware: Hardware
    known: Calibrations
    weights: Path | None
    progress: Progress
    stopping: Callable[[], bool]

    def reserved(self, cells: Sequence[Cell]) -> dict[str, Reserved]:
        """Return what each of the cells reserves, by id, measuring what is not known yet."""
        jobs = self._jobs(cells)
        self._measure([job for jobs in jobs.values() for job in jobs if not self.known.read(job)])
        shares: dict[str, Reserved] = {}
        for cell in cells:
            wanted = self.study.reserved(cell.capacity)
            taken = max(map(self._taken, jobs.get(kind_of(cell), [])), default=float("inf"))
            shares[cell.id] = self.hardware.reserved(wanted, taken)
        return shares

    def _jobs(self, cells: Iterable[Cell]) -> dict[str, list[Job]]:
        """Return for each kind of cell that is to be calibrated what there is to measure."""
        kinds: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            if self.hardware.calibrates(self.study.reserved(cell.capacity)):
                kinds[kind_of(cell)].append(cell)
        largest = {kind: max(of, key=lambda cell: cell.keep_rate) for kind, of in kinds.items()}
        return {
            kind: [Job(cell, device, self._threads(cell)) for device in self.hardware.memory]
            for kind, cell in largest.items()
        }

    def _threads(self, cell: Cell) -> int:
        cpu = self.study.reserved(cell.capacity).cpu
        return 1 if cpu == AUTO else max(1, int(cpu))

    def _taken(self, job: Job) -> float:
        """Return the part of a GPU's memory, or CPUs' parts of the main memory, that cells take."""
        record = self.known.read(job)
        if record is None:
            return float("inf")
        total = record["device_bytes"] or self.hardware.memory[job.device]
        return float(record["peak_bytes"] / total) if total else float("inf")

    def _measure(self, jobs: Sequence[Job]) -> None:
        """Measure each on a GPU of its own, several at once, unless the study is stopping."""
        if not jobs:
            return
        self.progress.note(f"calibrating {len(jobs)} kinds of cells with `auto` resources")
        by_name = {f"{job.device}: {job.name}": job for job in jobs}
        lanes = [self._lane(device, by_name) for device in self.hardware.memory]
        while any(lanes) and not self.stopping():
            for lane in lanes:
                for name, outcome in lane.poll(0.2):
                    self._take(by_name[name], outcome)
            self.progress.tick()
        for lane in lanes:
            lane.abandon()

    def _lane(self, device: str, jobs: Mapping[str, Job]) -> "Lane":
        import ray  # A dry run reads calibrations without it.

        from orchestrator.cluster.lane import Lane

        here = {name: job for name, job in jobs.items() if job.device == device}
        gpu = 1.0 if self.hardware.has_gpus else 0.0
        typed = {f"{TYPE}{device}": 0.001} if device not in ("CPU", "GPU") else {}
        measure = ray.remote(num_cpus=1, num_gpus=gpu, resources=typed, max_retries=0)(measured)
        lane = Lane(measure, limit=len(here), verb="calibrate")
        weights = str(self.weights) if self.weights else None
        for name, job in here.items():
            lane.submit(name, job.cell.model_dump_json(), weights, gpu, job.threads)
        return lane

    def _take(self, job: Job, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            reason = str(outcome).strip().splitlines()[-1][:200]
            all_there_is = "a whole GPU" if self.hardware.has_gpus else "all CPUs of a node"
            self.progress.note(f"{job.name}: not calibrated, reserves {all_there_is} ({reason})")
            return
        self.known.write(job, outcome)
        wanted = self.study.reserved(job.cell.capacity)
        share = self.hardware.reserved(wanted, self._taken(job))
        self.progress.note(f"{job.name}: {in_numbers(outcome)} on {job.device}: reserves {share}")


def kind_of(cell: Cell) -> str:
    """Return what cells that take about the same memory have in common, whatever the device."""
    return json.dumps(_kind(cell, "", 0), sort_keys=True)


def in_numbers(measured: Mapping[str, Any]) -> str:
    """Return what was measured, in words."""
    gib, milliseconds = measured["peak_bytes"] / 2**30, measured["seconds_an_image"] * 1000
    return f"{gib:.2f} GiB, {milliseconds:.3g} ms an image"


def measured(cell: str, weights: str | None, gpu: float, threads: int) -> dict[str, Any]:
    """Measure, in a Ray task; see `measure_apart`."""
    from trainables.calibration import measure_apart

    return measure_apart(cell, weights, gpu, threads)


def _kind(cell: Cell, device: str, threads: int) -> dict[str, Any]:
    recipe = cell.recipe
    distils = recipe.distillation != "none"
    return {
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
