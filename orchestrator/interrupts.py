"""Ctrl-C, SIGTERM and SIGHUP: the first one saves and stops, a later one stops at once."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from trainables.storage.files import write_atomic
from trainables.storage.paths import StorePath
from trainables.storage.retry import patience

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE_REQUEST_SECONDS = 1.0
"""Signals within this time are one request: `timeout` signals the process, then all its group."""


class Interrupts:
    """Records whether the launch has been asked to stop.

    Args:
        stop_file: Created on the first signal. All running cells, on any node, then save their
            state and end.
    """

    def __init__(self, stop_file: StorePath) -> None:
        self._stop_file = stop_file
        self.requested = False
        self._asked_at = -ONE_REQUEST_SECONDS
        self._cells_stopped = False
        self.lost_to: str | None = None
        """The other driver that has taken over the study, None if none has."""

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals for the duration of the context; SIGHUP unless `nohup` ignores it.

        Python delivers signals to the main thread: in any other nothing is handled.

        Raises:
            KeyboardInterrupt: On a signal that is not part of the first request.
        """
        self._stop_file.unlink(missing_ok=True)
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in previous.items() if _in_main_thread() else ():
                signal.signal(number, handler)
            with suppress(OSError):
                self._stop_file.unlink(missing_ok=True)

    def listen(self) -> None:
        """Install the handlers; needed again after `ray.init`, which installs its own."""
        for number in SIGNALS if _in_main_thread() else ():
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self._asked_at = time.monotonic()
            self.stop()
        elif time.monotonic() - self._asked_at >= ONE_REQUEST_SECONDS:
            raise KeyboardInterrupt

    def lose(self, holder: str) -> None:
        """Save and stop because another driver has taken over the study."""
        self.lost_to = holder
        self.stop()

    def stop(self) -> None:
        """Save and stop, as on the first signal."""
        self.requested = True
        self.stop_cells()

    def stop_cells(self) -> None:
        """Make running cells end, if that is requested; call it again, as the storage may fail."""
        if self.requested and not self._cells_stopped:
            with patience(seconds=0), suppress(OSError):
                write_atomic(self._stop_file, b"")
                self._cells_stopped = True


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
