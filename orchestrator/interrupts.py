"""Ctrl-C and SIGTERM: the first saves and stops, the second stops now."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Whether the run has been asked to stop.

    Args:
        stop_file: Created on the first signal, so that running cells save and end on whatever
            node they are.
    """

    def __init__(self, stop_file: Path) -> None:
        self._stop_file = stop_file
        self.requested = False

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
            self._stop_file.unlink(missing_ok=True)

    def listen(self) -> None:
        """Install the handlers; again after `ray.init`, which installs one of its own."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._stop_file.touch()
