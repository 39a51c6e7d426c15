"""Where the time of a cell's training goes, from some of its real steps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from trainables.cell_training import REPORT_SECONDS, CellTraining
from trainables.data.base import Subset
from trainables.loop import Finetuning
from trainables.macs import macs_of_model
from trainables.parts import Recorder, part, recording
from trainables.precision import autocast_dtype
from trainables.trainable import FinetuneTrainable

WARM_UP_STEPS = 2
EVALUATED_BATCHES = 4
"""Of the selecting split; the time for the rest follows from theirs."""
ENDLESS = 1_000_000
"""Epochs: no part of the steps asked for may be the end of a training."""
PRODUCT = {"cpu": 1024, "cuda": 8192}
"""Side of the matrices whose product tells what a device can do."""


@dataclass(frozen=True)
class PartTime:
    """What one part takes."""

    seconds: float
    """Each time."""
    steps: float
    """From one time to the next, in optimiser steps; 0.5 is twice a step."""

    @property
    def seconds_a_step(self) -> float:
        """What it adds to every step."""
        return self.seconds / self.steps


@dataclass(frozen=True)
class CellProfile:
    """Where the time of a cell's training goes."""

    device: str
    threads: int
    precision: str
    images_a_step: int
    steps: int
    """How many were measured each way."""
    images_per_second: float
    """Of steps whose parts are not recorded, evaluations and checkpoints left out."""
    parts: Mapping[str, PartTime]
    macs_per_second: float
    """What these steps compute, the backward pass counted as two forward passes."""
    peak_macs_per_second: float
    """What a large matrix product reaches on this device in this precision."""

    @property
    def utilisation(self) -> float:
        """Model FLOP utilisation: the share of the device's arithmetic that training uses."""
        return self.macs_per_second / self.peak_macs_per_second

    def report(self, seconds: float) -> PartTime:
        """Return what a report to the driver adds that takes so long, one in `REPORT_SECONDS`."""
        step = self.images_a_step / self.images_per_second
        return PartTime(seconds, max(1.0, REPORT_SECONDS / step))


class ProfiledTrainable(FinetuneTrainable):
    """A trial whose steps are taken one by one and told apart."""

    def _open(self, config: dict[str, Any]) -> "ProfiledTraining":
        self._profiled = ProfiledTraining(config)
        return self._profiled

    def profile(self, steps: int) -> CellProfile:
        """Return what `ProfiledTraining.profile` does."""
        return self._profiled.profile(steps)


class ProfiledTraining(CellTraining):
    """The training of a cell that does not end, one optimiser step after the other."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        recipe = self._cell.recipe.model_copy(update={"epochs": ENDLESS})
        self._cell = self._cell.model_copy(update={"recipe": recipe})

    def step(self) -> dict[str, Any]:
        """Do an optimiser step; say how long it took in here, in seconds."""
        began = time.perf_counter()
        report = self._opened().run(until=lambda: True)
        return report | {"seconds": time.perf_counter() - began, "done": False}

    def profile(self, steps: int) -> CellProfile:
        """Measure steps as they are, then as many whose parts are told apart."""
        finetuning = self._opened()
        while self.step()["preparing"]:
            pass
        for _ in range(WARM_UP_STEPS):
            self.step()
        speeds = [self.step()["images_per_second"] for _ in range(steps)]
        recorder = Recorder(finetuning.device)
        with recording(recorder):
            for _ in range(steps):
                self.step()
        images_per_second = median(speeds)
        images = finetuning.data.batch_images * self._cell.recipe.accumulation
        macs = macs_of_model(self._cell, finetuning.model, self._place["host_weights"])
        return CellProfile(
            device=_name(finetuning.device),
            threads=torch.get_num_threads(),
            precision=str(self._dtype or torch.float32).removeprefix("torch."),
            images_a_step=images,
            steps=steps,
            images_per_second=images_per_second,
            parts=self._parts(recorder, steps, images / images_per_second),
            macs_per_second=macs * images_per_second,
            peak_macs_per_second=peak_macs_per_second(
                finetuning.device, self._dtype or torch.float32
            ),
        )

    @property
    def _dtype(self) -> torch.dtype | None:
        return autocast_dtype(self._cell.recipe, self._place["device"])

    def _opened(self) -> Finetuning:
        if self._finetuning is None:
            self._finetuning = self._begin_attempt()
            self._epoch_images = len(self._finetuning.data.selecting)
            some = min(self._epoch_images, EVALUATED_BATCHES * self._cell.recipe.batch_size)
            self._finetuning.data.selecting = Subset(self._finetuning.data.selecting, range(some))
        return self._finetuning

    def _parts(self, recorder: Recorder, steps: int, step: float) -> dict[str, PartTime]:
        """Return what each part takes, those included that are not done in every step."""
        finetuning = self._opened()
        if self._cell.recipe.compile:
            finetuning.evaluate()  # The first one compiles, once a training.
        rare = Recorder(finetuning.device)
        with recording(rare):
            finetuning.evaluate()
            with part("checkpoint"):
                self._save(finetuning, best=True, last=True)
        self._writer.wait()
        parts: dict[str, PartTime] = {
            name: PartTime(recorder.seconds[name] / times, steps / times)
            for name, times in recorder.times.items()
            if name != "evaluation"
        }
        epoch = finetuning.total_steps // ENDLESS
        share = self._epoch_images / len(finetuning.data.selecting)
        parts["evaluation"] = PartTime(rare.seconds["evaluation"] * share, epoch)
        between = min(self._checkpoint_seconds / step, epoch)
        parts["checkpoint"] = PartTime(rare.seconds["checkpoint"], between)
        return parts


def peak_macs_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return the multiply-accumulates a second of a large matrix product, the best of five."""
    side = PRODUCT[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    recorder, best = Recorder(device), float("inf")
    for _ in range(6):  # The first warms up.
        before = recorder.seconds["forward"]
        with recorder.recorded("forward"):
            a @ b
        best = min(best, recorder.seconds["forward"] - before)
    return side**3 / best


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
