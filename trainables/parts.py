"""The parts of a training step, told apart where somebody records them."""

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


class Recorder:
    """Seconds that each part took, and how often it was done.

    Args:
        device: Where the parts compute. Parts on a GPU are waited for, so that what one has asked
            for does not count for the next: they add up to more than a step that is not recorded.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._within = False
        self.seconds: defaultdict[Part, float] = defaultdict(float)
        self.times: Counter[Part] = Counter()

    @contextmanager
    def recorded(self, name: Part) -> Iterator[None]:
        """Count what the context takes; within another part it counts for that one."""
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


_RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextmanager
def part(name: Part) -> Iterator[None]:
    """Do a part, for the recorder if there is one."""
    recorder = _RECORDER.get()
    with recorder.recorded(name) if recorder else nullcontext():
        yield


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Record the parts that this thread does in the context."""
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)
