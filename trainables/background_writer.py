"""Writes to the store that go on while training does."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from trainables.patience import Tell, patience


@dataclass(frozen=True)
class Written:
    """What was written."""

    bytes: int = 0
    seconds: float = 0.0
    """How long the writing took, waits for a storage that failed included."""

    def __add__(self, other: "Written") -> "Written":
        """Return what both are together."""
        return Written(self.bytes + other.bytes, self.seconds + other.seconds)


class BackgroundWriter:
    """Does one write after the other, in a thread; at most one is under way.

    Args:
        tell: Told, from that thread, what the storage makes wait; see `patience`.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background writer")
        self._under_way: Future[Written] | None = None
        self._written = Written()

    def begin(self, write: Callable[[], int]) -> None:
        """Wait for the write under way, if there is one, and begin another.

        Args:
            write: Writes, and returns how many bytes.

        Raises:
            Exception: What the write before has failed with; this one is not begun.
        """
        self.wait()
        self._under_way = self._thread.submit(self._timed, write)

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._under_way is not None and not self._under_way.done()

    def wait(self) -> None:
        """Wait for the write under way, if there is one.

        Raises:
            Exception: What it has failed with, once.
        """
        write, self._under_way = self._under_way, None
        if write is not None:
            self._written += write.result()

    def written(self) -> Written:
        """Return what has been written since this was asked before.

        Raises:
            Exception: What a write has failed with, once.
        """
        if not self.busy:
            self.wait()
        written, self._written = self._written, Written()
        return written

    def _timed(self, write: Callable[[], int]) -> Written:
        began = time.perf_counter()
        with patience(self._tell):
            count = write()
        return Written(count, time.perf_counter() - began)
