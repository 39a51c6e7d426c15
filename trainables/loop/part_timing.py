"""Time the parts of a training step, when asked to."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import torch

Part = Literal[
    "data wait",
    "copy to device",
    "normalise",
    "mixup",
    "forward",
    "backward",
    "optimiser",
    "average",
    "evaluation",
    "checkpoint",
]


class PartTimer:
    """Records the seconds that each part takes, and how often it runs.

    Args:
        device: Where the parts compute. On a GPU the timer waits for each part, so that its work
            does not count for the next one. The parts then add up to more than an unrecorded step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._within = False
        self.seconds: defaultdict[Part, float] = defaultdict(float)
        self.times: Counter[Part] = Counter()

    @contextmanager
    def recorded(self, name: Part) -> Iterator[None]:
        """Record the time of the context; inside another part it counts for that part."""
        if self._within:
            yield
            return
        self._within = True
        self._wait()
        began = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[name] += time.perf_counter() - began
            self.times[name] += 1
            self._within = False

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


_RECORDER: ContextVar[PartTimer | None] = ContextVar("recorder", default=None)


@contextmanager
def part(name: Part) -> Iterator[None]:
    """Run a part, and time it if something records."""
    recorder = _RECORDER.get()
    with recorder.recorded(name) if recorder else nullcontext():
        yield


@contextmanager
def recording(recorder: PartTimer) -> Iterator[None]:
    """Record the parts that this thread runs in the context."""
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)
