"""What the optimiser steps between two reports did, and how far the host runs ahead of the device.

The loss of a step stays on the device until the report is due: a host that read it after every
step would wait for the device each time, and the device then for the host.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainables.cell.not_finite import require_finite
from trainables.loop.objective import LossTerms
from trainables.workers import Workers


@dataclass
class StepStatistics:
    """What the optimiser steps since the last report did and found."""

    first_step: int
    """Optimiser steps before these."""
    images: int = 0
    seconds: float = 0.0
    """From the start of the first step until the device has finished the last one."""
    waited: float = 0.0
    """Seconds in which the device only waited for images."""
    losses: list[dict[str, float]] = field(default_factory=list)
    """Terms of each step's loss, once they are read."""
    _names: list[str] = field(default_factory=list)
    _found: list[Tensor] = field(default_factory=list)
    """Of each step the terms, the gradients' norm and the scale of the loss."""

    def note(self, terms: LossTerms, norm: Tensor, scale: Tensor) -> None:
        """Record what a step found, without waiting for the device.

        Args:
            terms: This rank's part of each term of the loss.
            norm: Of the gradients, before they were clipped.
            scale: Factor of float16's losses after this step; 1 for other types.
        """
        self._names = list(terms)
        self._found.append(torch.stack([*terms.values(), norm, scale]))

    def read(self, ranks: Workers) -> None:
        """Wait for the device and read what all ranks found.

        Raises:
            NonFiniteError: A term or the gradients' norm is not finite; the error names the first
                such step. Gradients that overflow because of float16's loss scale do not count:
                the scaler has skipped that step and lowers the scale.
        """
        found = torch.stack(self._found).tolist() if self._found else []
        size = len(self._names)
        totals = ranks.sum([term for row in found for term in row[:size]])
        for number, row in enumerate(found):
            terms = totals[number * size : (number + 1) * size]
            self.losses.append(dict(zip(self._names, terms, strict=True)))
            self._check(number, *row[size:])

    @property
    def loss_terms(self) -> dict[str, float] | None:
        """Each term's mean over the steps; None, like the other properties, without any step."""
        if not self.losses:
            return None
        steps = len(self.losses)
        return {name: sum(step[name] for step in self.losses) / steps for name in self._names}

    @property
    def loss(self) -> float | None:
        """The mean over the steps."""
        terms = self.loss_terms
        return None if terms is None else sum(terms.values())

    @property
    def images_per_second(self) -> float | None:
        """Speed, with what was waited for."""
        return self.images / self.seconds if self.losses else None

    @property
    def data_wait(self) -> float | None:
        """Share of the time in which the device waited for images, in [0, 1]."""
        return self.waited / self.seconds if self.losses else None

    def _check(self, number: int, norm: float, scale: float) -> None:
        skipped = not math.isfinite(norm) and scale > 1
        found = self.losses[number] if skipped else self.losses[number] | {"gradient norm": norm}
        require_finite(self.first_step + number, found)


class HostLead:
    """Keeps the host one optimiser step ahead of the device.

    One step is enough to keep the device busy. A host that ran further ahead would stop late when
    asked to, and fill the device's memory with batches that wait for their turn.

    Args:
        device: What computes the steps. On a CPU there is nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._queued: torch.cuda.Event | None = None

    def step_queued(self) -> None:
        """Wait until the device has finished the step before the one that was just queued."""
        if self._device.type != "cuda":
            return
        previous, self._queued = self._queued, torch.cuda.Event(blocking=True)
        self._queued.record(torch.cuda.current_stream(self._device))
        if previous is not None:
            previous.synchronize()
