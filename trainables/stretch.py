"""The optimiser steps from one report to the next, and how far ahead of the device they are asked.

What a step finds stays on the device until the stretch ends: a host that reads a loss in every
step would wait for the device each time, which then waits for the host.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainables.finite import require_finite
from trainables.losses import LossTerms
from trainables.ranks import Ranks


@dataclass
class Stretch:
    """What the steps of a stretch did and found."""

    first_step: int
    """Optimiser steps done before."""
    images: int = 0
    seconds: float = 0.0
    """From the first step to the end of what the device was asked to do."""
    waited: float = 0.0
    """Seconds in which the device had nothing to do but wait for images."""
    losses: list[dict[str, float]] = field(default_factory=list)
    """Terms of each step's loss, once they are read."""
    _names: list[str] = field(default_factory=list)
    _found: list[Tensor] = field(default_factory=list)
    """Of each step the terms, the gradients' norm and the scale of the loss."""

    def note(self, terms: LossTerms, norm: Tensor, scale: Tensor) -> None:
        """Add what a step found, on its device.

        Args:
            terms: This rank's part of each term of the loss.
            norm: Of the gradients, before they were clipped.
            scale: By which float16's losses are multiplied after this step; 1 where they are not.
        """
        self._names = list(terms)
        self._found.append(torch.stack([*terms.values(), norm, scale]))

    def read(self, ranks: Ranks) -> None:
        """Wait for the device and read what all ranks found.

        Raises:
            NonFiniteError: If a term or the gradients' norm is not finite; it names the first such
                step. Gradients that only float16's loss scale made so do not count: the scaler has
                left that step out and lowers the scale.
        """
        found = torch.stack(self._found).tolist() if self._found else []
        size = len(self._names)
        totals = ranks.sum([term for row in found for term in row[:size]])
        for number, row in enumerate(found):
            terms = totals[number * size : (number + 1) * size]
            self.losses.append(dict(zip(self._names, terms, strict=True)))
            self._check(number, *row[size:])

    def report(self) -> dict[str, Any]:
        """Return the steps' mean loss, images a second and the share of time waited for data."""
        if not self.losses:
            return dict.fromkeys(("loss", "loss_terms", "images_per_second", "data_wait"))
        terms = {
            name: sum(step[name] for step in self.losses) / len(self.losses) for name in self._names
        }
        return {
            "loss": sum(terms.values()),
            "loss_terms": terms,
            "images_per_second": self.images / self.seconds,
            "data_wait": self.waited / self.seconds,
        }

    def _check(self, number: int, norm: float, scale: float) -> None:
        left_out = not math.isfinite(norm) and scale > 1
        found = self.losses[number] if left_out else self.losses[number] | {"gradient norm": norm}
        require_finite(self.first_step + number, found)


class Lead:
    """Keeps the host one optimiser step ahead of the device.

    That is enough for the device never to wait for the host's commands. A host that ran on would
    stop late when asked to, and fill the device's memory with batches that wait for their turn.

    Args:
        device: What computes the steps. A CPU computes while the host waits anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._asked: torch.cuda.Event | None = None

    def step_asked(self) -> None:
        """Wait until the device has done the step before the one it has just been asked for."""
        if self._device.type != "cuda":
            return
        previous, self._asked = self._asked, torch.cuda.Event(blocking=True)
        self._asked.record(torch.cuda.current_stream(self._device))
        if previous is not None:
            previous.synchronize()
