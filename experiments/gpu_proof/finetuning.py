"""Finetuning on the device: losses as on a CPU, and resuming, in three precisions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from unittest import mock

import torch

from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import Workplace
from trainables.cell.cell import Cell
from trainables.loop.loop import Finetuning
from trainables.loop.opening import open_finetuning
from trainables.models import compiling
from trainables.recipe import Recipe

Precision = Literal["off", "bf16", "fp16"]

FURTHEST: dict[Precision, float] = {"off": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""Precision -> most by which a loss may be off, relatively."""
REHEARSED: dict[str, Precision] = {"plain": "fp16", "compiled": "off"}
"""Job -> the one precision of a rehearsal."""
RESUMED_WITHIN = 1e-4
"""Of weights, absolute: some sums on a GPU have no fixed order."""
CPU = torch.device("cpu")


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Finetune on the digits, `plain` or `compiled`.

    A rehearsal traces what is to be compiled, but runs it as it is: compiling takes minutes.
    """
    torch.backends.cudnn.allow_tf32 = False  # by default CUDA computes convolutions in TF32
    backend = "aot_eager" if place.rehearses else compiling.BACKEND
    with mock.patch.object(compiling, "BACKEND", backend):
        trainings = _Trainings(place, backend if job == "compiled" else None)
        expected = _losses(trainings.start("off", CPU))
        for precision in (REHEARSED[job],) if place.rehearses else FURTHEST:
            yield trainings.as_on_a_cpu(precision, expected)
            if not (place.rehearses and job == "compiled"):  # The same as plain, on a CPU.
                yield trainings.resumed(precision)


@dataclass(frozen=True)
class _Trainings:
    place: Workplace
    backend: str | None
    """What compiles them; None where nothing does."""

    def start(self, precision: Precision, device: torch.device) -> Finetuning:
        """Return a training before its first step; compiled, if at all, where it is proved."""
        recipe = Recipe(
            host="digits_tiny_patch4_32",
            pretrained=False,
            image_size=16,
            crop_ratio=1.0,
            batch_size=240,
            accumulation=2,
            lr_reference_batch=480,
            epochs=1 if self.place.rehearses else 2,
            warmup_epochs=0,
            ema_decay=0.9,
            loader_workers=0,
            precision=precision,
            compile=self.backend is not None and device is not CPU,
        )
        cell = Cell(
            dataset="digits",
            method="topk",
            capacity="tiny",
            keep_rate=0.5,
            reduction_loc=(3, 6, 9),
            recipe=recipe,
        )
        return open_finetuning(cell, data_root=None, device=device, threads=torch.get_num_threads())

    def as_on_a_cpu(self, precision: Precision, expected: torch.Tensor) -> Finding:
        """Compare losses with those in float32 on a CPU."""
        training = self._start_here(precision)
        losses = _losses(training)
        far = ((losses - expected).abs() / expected).max().item()
        as_asked = self.backend is None or training._compiling.on
        found = f"{len(losses)} losses differ by {far:.1e}, allowed {FURTHEST[precision]:.0e}"
        return Finding(
            what=f"losses as on a CPU{self._kind(precision)}",
            passed=far <= FURTHEST[precision] and as_asked,
            found=found if as_asked else f"{found}; compiling failed",
            value=far,
        )

    def resumed(self, precision: Precision) -> Finding:
        """Compare the weights of a training that was stopped with those of one that was not."""
        whole, stopped, resumed = (self._start_here(precision) for _ in range(3))
        _losses(whole)
        stopped.run(lambda: stopped.step == 2)
        resumed.load_state_dict(stopped.state_dict())
        _losses(resumed)
        ours, theirs = (training.state_dict()["model"] for training in (resumed, whole))
        far = max((ours[name] - theirs[name]).abs().max().item() for name in theirs)
        return Finding(
            what=f"goes on where it stopped{self._kind(precision)}",
            passed=far <= RESUMED_WITHIN,
            found=f"weights differ by {far:.1e}, allowed {RESUMED_WITHIN:.0e}",
            value=far,
        )

    def _start_here(self, precision: Precision) -> Finetuning:
        # Not the constant: on it, even a rehearsal compiles.
        return self.start(precision, torch.device(self.place.device))

    def _kind(self, precision: str) -> str:
        by = f", compiled by {self.backend}" if self.backend else ""
        return f", precision {precision}{by}"


def _losses(training: Finetuning) -> torch.Tensor:
    losses = []
    while not training.finished:
        losses.append(training.run(lambda: True).loss)
    return torch.tensor([loss for loss in losses if loss is not None])
