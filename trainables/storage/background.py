"""Writes to the store in the background of training."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from trainables.storage.retry import Tell, patience


@dataclass(frozen=True)
class WriteStatistics:
    """Amount and duration of writes."""

    bytes: int = 0
    seconds: float = 0.0
    """Duration of the writes, including waits for a failing storage."""

    def __add__(self, other: "WriteStatistics") -> "WriteStatistics":
        """Add the writes of both."""
        return WriteStatistics(self.bytes + other.bytes, self.seconds + other.seconds)


class BackgroundWriter:
    """Does one write after the other in a thread, at most one at a time.

    Args:
        tell: Called from that thread when the storage makes writes wait; see `patience`.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background writer")
        self._under_way: Future[WriteStatistics] | None = None
        self._written = WriteStatistics()

    def begin(self, write: Callable[[], int]) -> None:
        """Wait for the current write, if there is one, and start another.

        Args:
            write: Writes, and returns how many bytes.

        Raises:
            Exception: The previous write failed with it; this one is not started.
        """
        self.wait()
        self._under_way = self._thread.submit(self._timed, write)

    @property
    def busy(self) -> bool:
        """Whether a write is in progress."""
        return self._under_way is not None and not self._under_way.done()

    def wait(self) -> None:
        """Wait for the current write, if there is one.

        Raises:
            Exception: The write failed with it; raised once.
        """
        write, self._under_way = self._under_way, None
        if write is not None:
            self._written += write.result()

    def written(self) -> WriteStatistics:
        """Return what has been written since the last call.

        Raises:
            Exception: A write failed with it; raised once.
        """
        if not self.busy:
            self.wait()
        written, self._written = self._written, WriteStatistics()
        return written

    def _timed(self, write: Callable[[], int]) -> WriteStatistics:
        began = time.perf_counter()
        with patience(self._tell):
            count = write()
        return WriteStatistics(count, time.perf_counter() - began)
