"""Measure the memory and time of a cell's training, in a few real steps on made-up images.

Each measurement needs its own process, because a process keeps the memory that it once took.
"""

import itertools
import time
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor

from trainables.cell.cell import Cell
from trainables.cell.json_records import TrainingCost
from trainables.data.base import ImageDataset, Split, Target
from trainables.data.normalisation import Normalisation
from trainables.loop.data import Batches, TrainingData
from trainables.loop.loop import Finetuning
from trainables.models.device import device_for
from trainables.models.host import build_model
from trainables.models.host_source import HostSource
from trainables.models.macs import macs_of_model
from trainables.models.teacher import untrained_teacher

STEPS = 3
"""Optimiser steps; the first one warms up and is not timed."""
ENDLESS = 1_000_000
"""Batches of an epoch that must not end."""
CLASSES = 1000
"""Classes of the made-up images; a smaller head would take hardly less memory."""


def measure_apart(cell: str, weights: str | None, gpu: float, threads: int) -> TrainingCost:
    """Measure a cell's training in a new process.

    Args:
        cell: The cell as JSON.
        weights: Folder of the hosts' pretrained weights, which also holds their configurations.
        gpu: Share of a GPU that the caller has reserved; nothing else may use that GPU meanwhile.
        threads: CPU threads of PyTorch.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, cell, weights, gpu, threads).result()


def measure(cell: str, weights: str | None, gpu: float, threads: int) -> TrainingCost:
    """Measure a cell's training in this process; see `measure_apart`."""
    host_weights = Path(weights) if weights else None
    training = rehearsal(
        Cell.model_validate_json(cell),
        host_weights=host_weights,
        device=device_for(gpu),
        threads=threads,
    )
    seconds = [seconds_a_step(training) for _ in range(STEPS)]
    images = training.cell.recipe.batch_size * training.cell.recipe.accumulation
    on_gpu = training.device.type == "cuda"
    peak, total = _gpu_memory(training.device) if on_gpu else (_peak_of_process(), None)
    macs = macs_of_model(training.cell, training.model, host_weights)
    return {
        "peak_bytes": peak,
        "device_bytes": total,
        "seconds_an_image": median(seconds[1:]) / images,
        "macs_an_image": macs,
    }


def rehearsal(
    cell: Cell, *, host_weights: Path | None, device: torch.device, threads: int
) -> Finetuning:
    """Return the training of a cell on made-up images, from random weights.

    Args:
        cell: What is to be measured.
        host_weights: Folder of pretrained weights, which also holds the hosts' configurations.
        device: Where to train.
        threads: CPU threads of PyTorch in this process.
    """
    torch.set_num_threads(threads)
    cell = _untrained(cell)
    classes = _num_classes(cell, host_weights)
    model = build_model(cell, classes, weights=host_weights).to(device)
    teacher = untrained_teacher(cell, model, classes, host_weights)
    return Finetuning(cell, model, MadeUpData(cell, classes, device), teacher, device=device)


def seconds_a_step(training: Finetuning) -> float:
    """Do one optimiser step; return the seconds until its last result."""
    started = time.perf_counter()
    training.run(until=lambda: True)
    return time.perf_counter() - started


NEVER_READ = "images and targets of a calibration are made up, never read"


class Unreadable:
    """A split of which only the length is known."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def target(self, index: int) -> Target:
        """Refuse: there are no targets."""
        raise AssertionError(NEVER_READ)

    def image(self, index: int) -> Image.Image:
        """Refuse: there are no images."""
        raise AssertionError(NEVER_READ)


class MadeUpData(TrainingData):
    """The same batch of noise over and over, in an epoch that does not end."""

    def __init__(self, cell: Cell, num_classes: int, device: torch.device) -> None:
        self._cell = cell
        self._pinned = device.type == "cuda"
        self.batch_images = cell.recipe.batch_size
        self.batches_per_epoch = ENDLESS
        self.train = self.selecting = Unreadable(ENDLESS * self.batch_images)
        names = tuple(map(str, range(num_classes)))
        self.dataset = ImageDataset(cell.dataset, "single_label", names, self.train, self.train)
        self.normalise = Normalisation((0.5,) * 3, (0.5,) * 3)

    def prepare_training(self) -> Generator[str]:
        """Yield nothing: the images are in memory."""
        yield from ()

    def train_batches(self, epoch: int, start_batch: int = 0) -> Batches:
        """Return batches without end."""
        return itertools.repeat(self._batch())

    def eval_batches(self, split: Split, batch_size: int) -> Batches:
        """Return one batch."""
        return [self._batch()]

    def _batch(self) -> tuple[Tensor, ...]:
        size = self._cell.recipe.image_size
        pixels = torch.randint(256, (self.batch_images, 3, size, size), dtype=torch.uint8)
        targets = torch.arange(self.batch_images) % len(self.dataset.class_names)
        batch = (pixels, targets, torch.arange(self.batch_images))
        return tuple(x.pin_memory() for x in batch) if self._pinned else batch


def _untrained(cell: Cell) -> Cell:
    """Return the cell without what takes neither memory nor time of its device."""
    recipe = cell.recipe.model_copy(
        update={
            "pretrained": False,
            "epochs": 1,
            "warmup_epochs": 0,
            # More passes only repeat what two take.
            "accumulation": min(2, cell.recipe.accumulation),
            "cache": None,
            "loader_workers": 0,
        }
    )
    return cell.model_copy(update={"recipe": recipe})


def _gpu_memory(device: torch.device) -> tuple[int, int]:
    """Return this process's peak memory of its GPU, and the GPU's whole memory, in bytes."""
    free, total = torch.cuda.mem_get_info(device)
    context = max(0, total - free - torch.cuda.memory_reserved(device))
    return torch.cuda.max_memory_reserved(device) + context, total


def _peak_of_process() -> int:
    """Return this process's peak memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(peak.split()[1])


def _num_classes(cell: Cell, host_weights: Path | None) -> int:
    """Return the classes of a pretrained teacher, `CLASSES` for all other cells."""
    recipe = cell.recipe
    if recipe.distillation == "none" or recipe.taught_by_baseline:
        return CLASSES
    source = HostSource.find(cell.teacher, host_weights, any_network=True)
    return int(source.config["num_classes"])
