"""How close the order of release comes to the shortest possible study, on clusters of any size.

    python experiments/benchmarks/packing.py --gpus 1 2 4 8 16 32 64 128

The cells of the published study run on a simulated cluster: an event simulation places what the
study's own order releases, as Ray does. A cell's duration follows from
its multiply-accumulates and its share: it has that share of a GPU's speed.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments.benchmarks import results
from orchestrator.study.expansion import expand
from orchestrator.study.preflight import forecast
from orchestrator.study.study import Study, load_study
from orchestrator.training.release import ReleaseOrder, critical_paths
from trainables.cell.cell import Cell
from trainables.data.base import ImageDataset, LabelledSplit, Task
from trainables.trial.config import TrialConfig

MACS_PER_SECOND = 5e13
"""Sustained, of a whole GPU: it scales all durations alike and no ratio."""
IMAGES: Mapping[str, tuple[int, int, Task]] = {
    "imagenet": (1_281_167, 1000, "single_label"),
    "nabirds": (23_929, 555, "single_label"),
    "coco": (82_081, 80, "multi_label"),
    "nuswide": (150_000, 81, "multi_label"),
}
"""Training images, classes and task of each dataset."""


class Unread(LabelledSplit):
    """A split of which only the size is known."""

    def image(self, index: int) -> Image.Image:
        """Refuse: nothing is read."""
        raise AssertionError("a simulated study reads no image")


@dataclass(frozen=True)
class Outcome:
    """What came of a simulated study."""

    makespan: float
    """Seconds from the first cell's start to the last one's end."""
    bound: float
    """Seconds that no order can do better than."""
    chain: float
    """Seconds of the longest chain of cells that wait for each other."""
    started: dict[str, float]
    """When each cell started, seconds, by id."""


@dataclass
class Gpus:
    """Free shares of GPUs; a share goes to the GPU that it fits most tightly, as Ray does it."""

    free: list[float]
    held: dict[str, tuple[list[int], float]] = field(default_factory=dict)
    queue: list[TrialConfig] = field(default_factory=list)
    """Released, but without a place yet."""

    def begun(self, order: ReleaseOrder) -> list[TrialConfig]:
        """Return the cells that find a place, in the order of their release."""
        begun: list[TrialConfig] = []
        while True:
            self.queue += iter(order.next, None)
            placed = next((config for config in self.queue if self._place(config)), None)
            if placed is None:
                return begun
            self.queue.remove(placed)
            begun.append(placed)

    def _place(self, config: TrialConfig) -> bool:
        """Reserve what a cell asks for; tell whether there was room."""
        share, workers = config.gpu, config.workers
        fitting = [gpu for gpu, free in enumerate(self.free) if free >= share - 1e-6]
        if len(fitting) < workers:
            return False
        chosen = sorted(fitting, key=lambda gpu: self.free[gpu])[:workers]
        for gpu in chosen:
            self.free[gpu] -= share
        self.held[config.cell_id] = (chosen, share)
        return True

    def release(self, cell_id: str) -> None:
        """Give back what a cell has."""
        gpus, share = self.held.pop(cell_id)
        for gpu in gpus:
            self.free[gpu] += share


def main() -> None:
    """Simulate the study on clusters of all sizes asked for."""
    parser = results.option_parser(__doc__)
    add = parser.add_argument
    add("--study", default="paper", help="a study of the published datasets")
    add("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    options = parser.parse_args()
    study = load_study(options.study)
    cells, work = cells_and_work(study)
    rows = [row(gpus, simulate(configs(study, cells), work, gpus)) for gpus in options.gpus]
    for line in (rows[0], *(row.values() for row in rows)):
        print(results.line(line))
    results.write(options.out, "packing", rows, results.environment(options))


def row(gpus: int, outcome: Outcome) -> dict[str, object]:
    """Return a line of the table, times in hours."""
    return {
        "GPUs": gpus,
        "makespan": outcome.makespan / 3600,
        "lower bound": outcome.bound / 3600,
        "longest chain": outcome.chain / 3600,
        "ratio": f"{outcome.makespan / outcome.bound:.3f}",
    }


def cells_and_work(study: Study) -> tuple[list[Cell], dict[str, float]]:
    """Return a study's cells, and the seconds that each would have a whole GPU to itself, by id.

    Cells that differ in their dataset alone take the same for an image: what the number of
    classes adds is too little to matter.
    """
    cells = expand(study)
    unread = Unread(np.zeros(1))  # One image: work is counted by image.
    datasets = {
        name: ImageDataset(name, task, tuple(map(str, range(classes))), unread, unread)
        for name, (_, classes, task) in IMAGES.items()
    }
    alike = {_shape(cell): cell for cell in cells}
    with torch.device("meta"):
        macs = forecast(list(alike.values()), datasets, None).macs
    an_image = {shape: macs[cell.id] / cell.recipe.epochs for shape, cell in alike.items()}
    return cells, {c.id: an_image[_shape(c)] * _images(c) / MACS_PER_SECOND for c in cells}


def _shape(cell: Cell) -> tuple[Any, ...]:
    return cell.host, cell.method, cell.keep_rate, cell.recipe.distillation


def _images(cell: Cell) -> int:
    return cell.recipe.epochs * IMAGES[cell.dataset][0]


def configs(study: Study, cells: Iterable[Cell]) -> list[TrialConfig]:
    """Return what the order of release needs to know of each cell."""
    return [
        TrialConfig(
            cell_id=cell.id,
            prerequisite=cell.prerequisite,
            **study.reserved(cell.capacity).model_dump(),
            cell="",
            folder="",
            stop_file="",
            index_folder="",
        )
        for cell in cells
    ]


def simulate(cells: Sequence[TrialConfig], work: Mapping[str, float], gpus: int) -> Outcome:
    """Run cells to their end on so many GPUs, as the study's order releases them.

    Args:
        cells: As `configs` returns them.
        work: Seconds of a whole GPU that each cell takes, by id.
        gpus: How many there are.
    """
    seconds = {c.cell_id: work[c.cell_id] / (c.gpu * c.workers) for c in cells}

    def cost(config: TrialConfig) -> float:
        return seconds[config.cell_id]

    order = ReleaseOrder(cells, cost, room=lambda: {"CPU": float("inf"), "GPU": gpus})
    cluster, now = Gpus([1.0] * gpus), 0.0
    running: list[tuple[float, str]] = []
    started: dict[str, float] = {}
    while len(started) < len(cells):
        for config in cluster.begun(order):
            started[config.cell_id] = now
            heapq.heappush(running, (now + cost(config), config.cell_id))
        now, cell_id = heapq.heappop(running)
        cluster.release(cell_id)
        order.stopped(cell_id)
        order.finished(cell_id)
    end = max([now, *(time for time, _ in running)])
    chain = max(critical_paths(cells, cost).values())
    return Outcome(end, max(sum(work.values()) / gpus, chain), chain, started)


if __name__ == "__main__":
    main()
