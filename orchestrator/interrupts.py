"""Ctrl-C and SIGTERM: the first saves and stops, the second stops now."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from trainables.files import write_atomic
from trainables.patience import patience
from trainables.store_path import StorePath

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Whether the run has been asked to stop.

    Args:
        stop_file: Created on the first signal, so that running cells save and end on whatever
            node they are.
    """

    def __init__(self, stop_file: StorePath) -> None:
        self._stop_file = stop_file
        self.requested = False
        self._told = False
        self.lost_to: str | None = None
        """The other driver that has taken the study over, if one has."""

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM for the duration of the context.

        Raises:
            KeyboardInterrupt: On the second signal.
        """
        self._stop_file.unlink(missing_ok=True)
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            with suppress(OSError):
                self._stop_file.unlink(missing_ok=True)

    def listen(self) -> None:
        """Install the handlers; again after `ray.init`, which installs one of its own."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.stop()

    def lose(self, holder: str) -> None:
        """Save and stop, for another driver has taken the study over."""
        self.lost_to = holder
        self.stop()

    def stop(self) -> None:
        """Save and stop, as on the first signal."""
        self.requested = True
        self.tell_cells()

    def tell_cells(self) -> None:
        """Have running cells end if that is requested; repeat it, for the storage may fail."""
        if self.requested and not self._told:
            with patience(seconds=0), suppress(OSError):
                write_atomic(self._stop_file, b"")
                self._told = True
