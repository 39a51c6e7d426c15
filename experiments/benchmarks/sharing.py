"""Measure what sharing a device is worth: cells one after the other, and all at once.

    python experiments/benchmarks/sharing.py --cells 2 4

Each cell trains in a process of its own, on noise that is there before the clock starts. Alone it
has all threads of the device; together the cells share them, or the GPU. All take turns; a value
is the median of the ratio of the images a second of all cells together over those of one alone.
`--mps` does the same once more through NVIDIA's multi-process service, started for the purpose.

Writes `sharing.json` and `sharing.md` into the output folder and prints the table.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from unittest import mock

import torch

import reduction
from experiments.benchmarks.results import Measurement, environment, line, option_parser, write
from trainables.cell.cell import Cell
from trainables.recipe import Recipe
from trainables.trial.calibration import rehearsal, seconds_a_step

WARM_UP_STEPS = 2
SECONDS_TO_START = 600
"""Then a process no longer waits for the others: one of them has failed."""
MPS = "nvidia-cuda-mps-control"

Spans = SimpleQueue[tuple[float, float]]


@dataclass(frozen=True)
class Load:
    """What one process trains."""

    host: str
    method: str
    batch_size: int
    image_size: int
    steps: int
    device: str
    threads: int

    def cell(self) -> Cell:
        """Return a cell of this kind."""
        recipe = Recipe(
            host=self.host,
            image_size=self.image_size,
            batch_size=self.batch_size,
            accumulation=1,
        )
        return Cell(
            dataset="noise",
            method=self.method,
            capacity="tiny",
            keep_rate=1.0 if self.method == "deit" else 0.5,
            reduction_loc=(3, 6, 9),
            recipe=recipe,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    print(line(Measurement.__annotations__), flush=True)
    rows = []
    for through_mps in (False, True) if options.mps else (False,):
        with mps() if through_mps else nullcontext():
            for row in measure(options, through_mps=through_mps):
                rows.append(asdict(row))
                print(line(rows[-1].values()), flush=True)
    write(options.out, "sharing", rows, environment(options))
    print(f"wrote sharing.json and sharing.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(
        __doc__,
        device="cpu",
        host="deit_tiny_patch16_224",
        image_size=224,
        batch_size=8,
        threads=len(os.sched_getaffinity(0)),
        repeats=3,
    )
    add = parser.add_argument
    add("--cells", type=int, nargs="+", default=[2], help="at once")
    add("--method", default="deit", choices=list(reduction.METHODS))
    add("--steps", type=int, default=6)
    add("--mps", action="store_true", help="once more through NVIDIA's multi-process service")
    options = parser.parse_args(arguments)
    if options.mps and not shutil.which(MPS):
        parser.error(f"--mps needs {MPS}, which is not installed")
    return options


def measure(options: argparse.Namespace, *, through_mps: bool) -> Iterator[Measurement]:
    """Compare each number of cells at once with one alone; tell how it goes."""
    speeds: dict[int, list[float]] = {cells: [] for cells in (1, *options.cells)}
    for turn in range(options.repeats):
        for cells, found in speeds.items():
            load = _load(options, max(1, options.threads // cells))
            found.append(speed(load, cells))
            told = (
                f"turn {turn + 1} of {options.repeats}: {cells} at once, {found[-1]:.1f} images/s"
            )
            print(told, file=sys.stderr, flush=True)
    for cells in options.cells:
        yield compared(cells, speeds[1], speeds[cells], options.device, through_mps=through_mps)


def compared(
    cells: int, alone: Sequence[float], together: Sequence[float], device: str, *, through_mps: bool
) -> Measurement:
    """Compare the images a second of so many cells at once with those of one, turn by turn."""
    one, all_of_them = statistics.median(alone), statistics.median(together)
    return Measurement(
        measured=f"{cells} cells at once over one after the other{', MPS' * through_mps}",
        value=statistics.median(b / a for a, b in zip(alone, together, strict=True)),
        target="at least 1.8" if cells == 4 and device != "cpu" else "at least 1",
        details=f"{all_of_them:.1f} images/s together, {one:.1f} alone",
    )


def speed(load: Load, processes: int) -> float:
    """Return the images a second of so many processes that train at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier, spans = context.Barrier(processes), context.SimpleQueue()
    workers = [
        context.Process(target=_train, args=(load, barrier, spans)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a process that trains ended with status {worker.exitcode}")
    began, ended = zip(*(spans.get() for _ in workers), strict=True)
    return processes * load.steps * load.batch_size / (max(ended) - min(began))


def _train(load: Load, barrier: Barrier, spans: Spans) -> None:
    """Train some steps once all are ready; tell when they began and ended."""
    training = rehearsal(
        load.cell(), host_weights=None, device=torch.device(load.device), threads=load.threads
    )
    for _ in range(WARM_UP_STEPS):
        seconds_a_step(training)
    barrier.wait(SECONDS_TO_START)
    began = time.monotonic()
    for _ in range(load.steps):
        seconds_a_step(training)
    spans.put((began, time.monotonic()))


def _load(options: argparse.Namespace, threads: int) -> Load:
    return Load(
        options.host,
        options.method,
        options.batch_size,
        options.image_size,
        options.steps,
        options.device,
        threads,
    )


@contextmanager
def mps() -> Iterator[None]:
    """Run NVIDIA's multi-process service for the processes started in the context."""
    with tempfile.TemporaryDirectory() as folder:
        places = {
            "CUDA_MPS_PIPE_DIRECTORY": folder,
            "CUDA_MPS_LOG_DIRECTORY": folder,
        }
        with mock.patch.dict(os.environ, places):
            subprocess.run([MPS, "-d"], check=True)  # noqa: S603
            try:
                yield
            finally:
                subprocess.run([MPS], input=b"quit\n", check=False)  # noqa: S603


if __name__ == "__main__":
    main()
