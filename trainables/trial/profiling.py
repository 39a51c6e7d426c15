"""Measure where the time of a cell's training goes, in some of its real steps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from trainables.cell.cell import Cell
from trainables.cell.report import Report, TrialReport
from trainables.data.base import Subset
from trainables.loop.loop import Finetuning
from trainables.loop.part_timing import PartTimer, part, recording
from trainables.models.device import autocast_dtype
from trainables.models.macs import macs_of_model
from trainables.trial.cell_training import REPORT_SECONDS, CellTraining
from trainables.trial.config import TrialConfig
from trainables.trial.trainable import FinetuneTrainable

WARM_UP_STEPS = 2
EVALUATED_BATCHES = 4
"""Batches of the selecting split that are evaluated; the time of the whole split follows."""
ENDLESS = 1_000_000
"""Epochs of a training that must not end while it is measured."""
PRODUCT = {"cpu": 1024, "cuda": 8192}
"""Side of the matrices whose product measures what a device can do."""


@dataclass(frozen=True)
class PartTime:
    """How long one part takes."""

    seconds: float
    """Of one execution."""
    steps: float
    """Optimiser steps from one execution to the next; 0.5 means twice a step."""

    @property
    def seconds_a_step(self) -> float:
        """Seconds that it adds to every step, on average."""
        return self.seconds / self.steps


@dataclass(frozen=True)
class CellProfile:
    """Where the time of a cell's training goes."""

    device: str
    threads: int
    precision: str
    images_a_step: int
    steps: int
    """Steps that were measured as they are, and as many part by part."""
    images_per_second: float
    """Speed of steps whose parts are not recorded, without evaluations and checkpoints."""
    parts: Mapping[str, PartTime]
    macs_per_second: float
    """Multiply-accumulates of these steps; a backward pass counts as two forward passes."""
    peak_macs_per_second: float
    """The speed of a large matrix product on this device in this precision."""

    @property
    def utilisation(self) -> float:
        """Model FLOP utilisation: the share of the device's arithmetic that training uses."""
        return self.macs_per_second / self.peak_macs_per_second

    def report(self, seconds: float) -> PartTime:
        """Return the cost of reports that take so long, one in `REPORT_SECONDS`."""
        step = self.images_a_step / self.images_per_second
        return PartTime(seconds, max(1.0, REPORT_SECONDS / step))


class ProfiledTrainable(FinetuneTrainable):
    """A trial that takes its steps one by one and can measure them."""

    _profiled: "ProfiledTraining"

    def open(self, config: TrialConfig) -> "ProfiledTraining":
        """Open the training without an end."""
        self._profiled = ProfiledTraining(config)
        return self._profiled

    def profile(self, steps: int) -> CellProfile:
        """Return what `ProfiledTraining.profile` does."""
        return self._profiled.profile(steps)

    def seconds(self) -> float:
        """Return the seconds that the last step took in this process."""
        return self._profiled.seconds


class ProfiledTraining:
    """Trains a cell for ever, one optimiser step at a time.

    Args:
        config: The configuration of the cell's trial.
    """

    def __init__(self, config: TrialConfig) -> None:
        cell = Cell.model_validate_json(config.cell)
        recipe = cell.recipe.model_copy(update={"epochs": ENDLESS})
        self._cell = cell.model_copy(update={"recipe": recipe})
        self._training = CellTraining(replace(config, cell=self._cell.model_dump_json()))
        self._host_weights = Path(config.weights) if config.weights else None
        self._finetuning: Finetuning | None = None
        self.seconds = 0.0
        """How long the last step took."""

    def step(self) -> TrialReport:
        """Do an optimiser step."""
        return TrialReport(training=self._step())

    def close(self) -> None:
        """Free the model and end the processes that load data."""
        self._training.close()

    def profile(self, steps: int) -> CellProfile:
        """Measure some steps as they are, then as many part by part."""
        finetuning = self._opened()
        while self._step().preparing:
            pass
        for _ in range(WARM_UP_STEPS):
            self._step()
        speeds = [self._step().images_per_second or 0.0 for _ in range(steps)]
        timer = PartTimer(finetuning.device)
        with recording(timer):
            for _ in range(steps):
                self._step()
        images_per_second = median(speeds)
        images = finetuning.data.batch_images * self._cell.recipe.accumulation
        macs = macs_of_model(self._cell, finetuning.model, self._host_weights)
        dtype = autocast_dtype(self._cell.recipe, finetuning.device) or torch.float32
        return CellProfile(
            device=_name(finetuning.device),
            threads=torch.get_num_threads(),
            precision=str(dtype).removeprefix("torch."),
            images_a_step=images,
            steps=steps,
            images_per_second=images_per_second,
            parts=self._parts(timer, steps, images / images_per_second),
            macs_per_second=macs * images_per_second,
            peak_macs_per_second=peak_macs_per_second(finetuning.device, dtype),
        )

    def _step(self) -> Report:
        began = time.perf_counter()
        report = self._opened().run(until=lambda: True)
        self.seconds = time.perf_counter() - began
        return report

    def _opened(self) -> Finetuning:
        if self._finetuning is None:
            self._finetuning = self._training.opened()
            data = self._finetuning.data
            self._epoch_images = len(data.selecting)
            some = min(self._epoch_images, EVALUATED_BATCHES * self._cell.recipe.batch_size)
            data.selecting = Subset(data.selecting, range(some))
        return self._finetuning

    def _parts(self, timer: PartTimer, steps: int, step: float) -> dict[str, PartTime]:
        """Return what each part takes, including those that are not in every step.

        Args:
            timer: Has recorded the steps.
            steps: How many.
            step: Seconds of a step.
        """
        finetuning, recipe = self._opened(), self._cell.recipe
        if recipe.compile:
            finetuning.evaluate()  # The first evaluation of a training compiles.
        rare = PartTimer(finetuning.device)
        with recording(rare):
            finetuning.evaluate()
            with part("checkpoint"):
                self._training.save(best=True, last=True)
        self._training.wait()
        parts: dict[str, PartTime] = {
            name: PartTime(timer.seconds[name] / times, steps / times)
            for name, times in timer.times.items()
            if name != "evaluation"
        }
        epoch = finetuning.total_steps // ENDLESS
        share = self._epoch_images / len(finetuning.data.selecting)
        parts["evaluation"] = PartTime(rare.seconds["evaluation"] * share, epoch)
        between = min(recipe.checkpoint_minutes * 60 / step, epoch)
        parts["checkpoint"] = PartTime(rare.seconds["checkpoint"], between)
        return parts


def peak_macs_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return the multiply-accumulates a second of a large matrix product, the best of five."""
    side = PRODUCT[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    recorder, best = PartTimer(device), float("inf")
    for _ in range(6):  # The first warms up.
        before = recorder.seconds["forward"]
        with recorder.recorded("forward"):
            a @ b
        best = min(best, recorder.seconds["forward"] - before)
    return side**3 / best


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
