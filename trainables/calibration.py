"""How much memory a cell's training takes and how long, from a few real steps on made-up images.

What is measured is a process of its own, since memory that was once taken stays taken.
"""

import itertools
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from trainables.cell import Cell
from trainables.cell_data import CellData
from trainables.data.base import ImageDataset, Split
from trainables.data.normalisation import Normalisation
from trainables.device import device_for
from trainables.distillation import Teacher
from trainables.host_source import HostSource
from trainables.loop import Finetuning
from trainables.macs import macs_of_model
from trainables.teacher import untrained_teacher

STEPS = 3
"""Optimiser steps; the first, which warms up, is not timed."""
ENDLESS = 1_000_000
"""Batches of an epoch that is not to end."""
CLASSES = 1000
"""Of the made-up images: the head of a smaller number takes hardly less."""


@dataclass(frozen=True)
class Measured:
    """What a training takes."""

    peak_bytes: int
    """Most memory held at a time: of the GPU, or of the process where it computes on CPUs."""
    device_bytes: int | None
    """Memory of the whole GPU, None on CPUs."""
    seconds_an_image: float
    """Of training alone: without reading images."""
    macs_an_image: float
    """Multiply-accumulates; see `trainables.macs`."""


def measure_apart(cell: str, weights: str | None, gpu: float, threads: int) -> dict[str, Any]:
    """Measure a cell's training in a new process; return the fields of `Measured`.

    Args:
        cell: The cell as JSON.
        weights: Folder of the hosts' pretrained weights, whose configurations say what they are.
        gpu: What the caller has reserved of a GPU, which nothing else uses meanwhile.
        threads: CPU threads of PyTorch.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return asdict(process.submit(measure, cell, weights, gpu, threads).result())


def measure(cell: str, weights: str | None, gpu: float, threads: int) -> Measured:
    """Measure a cell's training in this process; see `measure_apart`."""
    rehearsal = Rehearsal(
        Cell.model_validate_json(cell),
        host_weights=Path(weights) if weights else None,
        device=device_for(gpu),
        threads=threads,
    )
    seconds = [rehearsal.seconds_a_step() for _ in range(STEPS)]
    images = rehearsal.cell.recipe.batch_size * rehearsal.cell.recipe.accumulation
    on_gpu = rehearsal.device.type == "cuda"
    peak, total = _gpu_memory(rehearsal.device) if on_gpu else (_peak_of_process(), None)
    return Measured(peak, total, median(seconds[1:]) / images, rehearsal.macs_an_image())


class Rehearsal(Finetuning):
    """The training of a cell on made-up images, from random weights.

    Args:
        cell: What is to be measured.
        host_weights: Folder of pretrained weights, whose configurations say what they are.
        device: Where to train.
        threads: CPU threads of PyTorch in this process.
    """

    def __init__(
        self, cell: Cell, *, host_weights: Path | None, device: torch.device, threads: int
    ) -> None:
        self._weights = host_weights
        super().__init__(
            _untrained(cell),
            data_root=None,
            host_weights=host_weights,
            device=device,
            threads=threads,
        )

    def seconds_a_step(self) -> float:
        """Do one optimiser step; return how long it took, up to its last result."""
        started = time.perf_counter()
        self.run(until=lambda: True)
        return time.perf_counter() - started

    def macs_an_image(self) -> float:
        """Return the multiply-accumulates of training on an image."""
        return macs_of_model(self.cell, self.model, self._weights)

    def _open_data(self, *_: Any) -> CellData:
        return cast(CellData, MadeUpData(self.cell, self._num_classes(), self.device))

    def _find_teacher(self, *_: Any) -> Teacher | None:
        return untrained_teacher(self.cell, self.model, self._num_classes(), self._weights)

    def _num_classes(self) -> int:
        recipe = self.cell.recipe
        if recipe.distillation == "none" or recipe.taught_by_baseline:
            return CLASSES
        source = HostSource.find(self.cell.teacher, self._weights, any_network=True)
        return int(source.config["num_classes"])


class MadeUpData:
    """Stands for `CellData`: one batch of noise, over and over, in an epoch that does not end."""

    def __init__(self, cell: Cell, num_classes: int, device: torch.device) -> None:
        self._cell = cell
        self._pinned = device.type == "cuda"
        self.batch_images = cell.recipe.batch_size
        self.batches_per_epoch = ENDLESS
        self.train = cast(Split, range(self.batches_per_epoch * self.batch_images))
        names = tuple(map(str, range(num_classes)))
        self.dataset = ImageDataset(cell.dataset, "single_label", names, self.train, self.train)
        self.normalise = Normalisation((0.5,) * 3, (0.5,) * 3)

    def prepare_training(self) -> Generator[str]:
        """Yield nothing: there is nothing to make ready."""
        yield from ()

    def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Return batches of images, targets and their numbers without end."""
        size = self._cell.recipe.image_size
        pixels = torch.randint(256, (self.batch_images, 3, size, size), dtype=torch.uint8)
        targets = torch.arange(self.batch_images) % len(self.dataset.class_names)
        batch = (pixels, targets, torch.arange(self.batch_images))
        return itertools.repeat(tuple(x.pin_memory() for x in batch) if self._pinned else batch)


def _untrained(cell: Cell) -> Cell:
    """Return the cell without what takes neither memory of its device nor time on it."""
    recipe = cell.recipe.model_copy(
        update={
            "pretrained": False,
            "epochs": 1,
            "warmup_epochs": 0,
            # More passes only repeat what two have taken.
            "accumulation": min(2, cell.recipe.accumulation),
            "cache": None,
            "loader_workers": 0,
        }
    )
    return cell.model_copy(update={"recipe": recipe})


def _gpu_memory(device: torch.device) -> tuple[int, int]:
    """Return the most that this process has held of its GPU, and all there is, in bytes."""
    free, total = torch.cuda.mem_get_info(device)
    context = max(0, total - free - torch.cuda.memory_reserved(device))
    return torch.cuda.max_memory_reserved(device) + context, total


def _peak_of_process() -> int:
    """Return the most memory that this process has held, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(peak.split()[1])
