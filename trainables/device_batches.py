"""Batches that travel to the device while it computes, and how long it stood idle for them."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor

from trainables.parts import part

Batch = tuple[Tensor, ...]


class DeviceBatches(Iterator[Batch]):
    """Batches with their tensors on a device, ready to be used.

    To a CUDA device they are copied on a stream of their own, so that this overlaps with what the
    device computes, if the batches lie in pinned memory. On a CPU they pass as they are.

    Args:
        batches: Batches of tensors on the CPU.
        device: Where they are wanted.
        finish: Makes a batch that has arrived ready, on its device.
    """

    def __init__(
        self,
        batches: Iterable[Sequence[Tensor]],
        device: torch.device,
        finish: Callable[[Sequence[Tensor]], Batch],
    ) -> None:
        # A loader starts its processes when it is iterated over: once a batch is waited for.
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
                tensor.record_stream(current)  # Else its memory could be reused too early.
        with part("normalise"):
            return self._finish(batch)

    def prefetch(self) -> None:
        """Fetch the next batch while a CUDA device has work to do; nothing else has to wait."""
        if self._stream is not None and self._fetched is None:
            self._fetch()

    def waited(self) -> float:
        """Return for how many seconds the device had nothing to do but wait for batches.

        They count since the last call. The device must have done all it was asked to.
        """
        waits, self._waits = self._waits, []
        return sum(seconds() for seconds in waits)

    def _fetch(self) -> None:
        """Wait for a batch, if there is one left, and begin to copy it."""
        with part("data wait"), self._waiting():
            batch = next(self._batches, None)
        if batch is not None:
            stream = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
            with part("copy to device"), stream:
                self._fetched = [x.to(self._device, non_blocking=True) for x in batch]

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Time the context as the device sees it: from when it has nothing left to do."""
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
