"""Copy batches to the device while it computes, and measure how long it waited for them."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor

from trainables.loop.part_timing import part

Batch = tuple[Tensor, ...]


class DeviceBatches(Iterator[Batch]):
    """Batches with their tensors on a device, ready to be used.

    A CUDA device gets them on a separate stream, so that copies from pinned memory overlap with its
    computation. A CPU gets them as they are.

    Args:
        batches: Batches of tensors on the CPU.
        device: Where to copy them.
        finish: Prepares a batch that is on the device.
    """

    def __init__(
        self,
        batches: Iterable[Sequence[Tensor]],
        device: torch.device,
        finish: Callable[[Sequence[Tensor]], Batch],
    ) -> None:
        # A loader starts its processes when it is iterated over, so not before the first batch.
        self._batches = chain.from_iterable([batches])
        self._device = device
        self._finish = finish
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._fetched: Sequence[Tensor] | None = None
        self._waits: list[Callable[[], float]] = []

    def __next__(self) -> Batch:
        if self._fetched is None:
            self._fetch()
        batch, self._fetched = self._fetched, None
        if batch is None:
            raise StopIteration
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            with self._waiting():
                current.wait_stream(self._stream)
            for tensor in batch:
                tensor.record_stream(current)  # Otherwise its memory could be reused too early.
        with part("normalise"):
            return self._finish(batch)

    def prefetch(self) -> None:
        """Fetch the next batch while a CUDA device still computes."""
        if self._stream is not None and self._fetched is None:
            self._fetch()

    def waited(self) -> float:
        """Return the seconds since the last call in which the device only waited for batches.

        The device must have finished all of its work.
        """
        waits, self._waits = self._waits, []
        return sum(seconds() for seconds in waits)

    def _fetch(self) -> None:
        """Wait for a batch, if one is left, and start to copy it."""
        with part("data wait"), self._waiting():
            batch = next(self._batches, None)
        if batch is not None:
            stream = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
            with part("copy to device"), stream:
                self._fetched = [x.to(self._device, non_blocking=True) for x in batch]

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Time the context from the moment at which the device has finished its work."""
        if self._stream is None:
            start = time.perf_counter()
            yield
            seconds = time.perf_counter() - start
            self._waits.append(lambda: seconds)
        else:
            before = self._event()
            yield
            after = self._event()
            self._waits.append(lambda: before.elapsed_time(after) / 1000)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
