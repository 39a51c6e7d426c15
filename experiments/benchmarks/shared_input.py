"""Measure what cells of a node save that decode and augment together (`shared_input: true`).

    python experiments/benchmarks/shared_input.py --cells 1 2 4 8

Each cell is a process that goes through the same batches of JPEG files, single label, default
recipe, and does nothing else: cells that wait for images all the time. They begin together. Cells
that share and cells that do not take turns, and so does one cell alone, which is the unit:

- images_per_second: of all cells together, by the clock on the wall;
- speed_up: that over as many cells that do not share;
- decodes: images decoded by all cells together, over those of one cell;
- work: seconds of CPU time of all cells together, over those of one cell. What it takes to hand
  batches over is in it.

Values are medians over the repeats. Writes `shared_input.json` and `shared_input.md` into the
output folder and prints the table.
"""

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from PIL import Image

from experiments.benchmarks.input import GREY, photographs
from experiments.benchmarks.results import environment, line, option_parser, write
from trainables.data.base import Split, Target
from trainables.data.loader import train_loader
from trainables.data.transforms import erasing, train_transform
from trainables.recipe import Recipe

SECONDS_TO_START = 600
"""Then a process no longer waits for the others: one of them has failed."""
FORK = multiprocessing.get_context("fork")

Spent = tuple[float, float, float, int]
"""When a cell began and ended, its seconds of CPU time, and the images it decoded."""


@dataclass(frozen=True, kw_only=True)
class SharedInputRow:
    """Some cells at once."""

    cells: int
    shared: bool
    images_per_second: float
    speed_up: float
    decodes: float
    work: float


@dataclass(frozen=True)
class Run:
    """What some cells took together."""

    images_per_second: float
    seconds: float
    """Of CPU time."""
    decoded: int


class Counted:
    """A split that counts the images it has decoded."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.decoded = 0

    def __len__(self) -> int:
        return len(self.split)

    def target(self, index: int) -> Target:
        """Return the target of one image."""
        return self.split.target(index)

    def image(self, index: int) -> Image.Image:
        """Return image `index`, decoded."""
        self.decoded += 1
        return self.split.image(index)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        files = photographs(Path(scratch), options)
        rows = measure(files, options)
    write(options.out, "shared_input", [asdict(row) for row in rows], environment(options))
    print(
        line(SharedInputRow.__annotations__),
        *(line(asdict(row).values()) for row in rows),
        sep="\n",
    )
    print(f"wrote shared_input.json and shared_input.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(
        __doc__, images=256, size=[500, 375], quality=95, image_size=224, batch_size=16, repeats=3
    )
    add = parser.add_argument
    add("--cells", type=int, nargs="+", default=[1, 2, 4, 8])
    return parser.parse_args(arguments)


def measure(files: Split, options: argparse.Namespace) -> list[SharedInputRow]:
    """Measure every number of cells by turns, sharing and not."""
    kinds = list(itertools.product(options.cells, (False, True)))
    rounds = []
    for _ in range(options.repeats):
        alone = run_cells(files, 1, False, options)
        rounds.append((alone, {kind: run_cells(files, *kind, options) for kind in kinds}))
    return [summary(kind, rounds) for kind in kinds]


def summary(
    kind: tuple[int, bool], rounds: Sequence[tuple[Run, dict[tuple[int, bool], Run]]]
) -> SharedInputRow:
    """Return the medians over the rounds, each of one cell alone and of all kinds."""
    cells, shared = kind
    speeds = [runs[kind].images_per_second for _, runs in rounds]
    apart = [runs[cells, False].images_per_second for _, runs in rounds]
    return SharedInputRow(
        cells=cells,
        shared=shared,
        images_per_second=statistics.median(speeds),
        speed_up=statistics.median(x / y for x, y in zip(speeds, apart, strict=True)),
        decodes=statistics.median(runs[kind].decoded / alone.decoded for alone, runs in rounds),
        work=statistics.median(runs[kind].seconds / alone.seconds for alone, runs in rounds),
    )


def run_cells(files: Split, cells: int, shared: bool, options: argparse.Namespace) -> Run:
    """Let some cells go through an epoch at once.

    Raises:
        RuntimeError: One of them failed.
    """
    begin, spent = FORK.Barrier(cells), FORK.SimpleQueue()
    # A name of its own: nothing that is left of another run counts.
    shared_as = f"benchmark-{time.time_ns()}" if shared else None
    arguments = (files, shared_as, options, begin, spent)
    processes = [FORK.Process(target=one_cell, args=arguments) for _ in range(cells)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a cell failed; what it said is above")
    starts, ends, seconds, decoded = zip(*(spent.get() for _ in processes), strict=True)
    images = cells * (options.images // options.batch_size) * options.batch_size
    return Run(images / (max(ends) - min(starts)), sum(seconds), sum(decoded))


def one_cell(
    files: Split,
    shared_as: str | None,
    options: argparse.Namespace,
    begin: Barrier,
    spent: SimpleQueue[Spent],
) -> None:
    """Be a cell: go through an epoch, and tell what that took."""
    images = Counted(files)
    recipe = Recipe(image_size=options.image_size)
    load = partial(
        train_loader,
        transform=train_transform(recipe, "single_label", GREY),
        erasing=erasing(recipe, "single_label"),
        batch_size=options.batch_size,
        seed=0,
    )
    next(iter(load(files, epoch=1)))  # What a process does for the first time takes longer.
    loader = load(images, epoch=0, shared_as=shared_as)
    begin.wait(SECONDS_TO_START)
    start, cpu = time.monotonic(), time.process_time()
    for _ in loader:
        pass
    end, seconds = time.monotonic(), time.process_time() - cpu
    begin.wait(SECONDS_TO_START)  # Who comes last finds what the others have made.
    spent.put((start, end, seconds, images.decoded))


if __name__ == "__main__":
    main()
