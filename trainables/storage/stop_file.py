"""The file by which a driver asks the cells of its launch, on any node, to save and end."""

import time
from contextlib import suppress

from trainables.storage.paths import ObjectPath, store_path

SECONDS_BETWEEN_REQUESTS = 5.0
"""Seconds between two requests to an object store, even if steps are shorter."""


class StopFile:
    """Watches whether the file exists.

    Args:
        place: Its path or URI.
    """

    def __init__(self, place: str) -> None:
        self._path = store_path(place)
        self._pause = SECONDS_BETWEEN_REQUESTS if isinstance(self._path, ObjectPath) else 0.0
        self._due = 0.0
        self._existed = False

    def exists(self) -> bool:
        """Return whether the file exists, for object stores as of a few seconds ago."""
        if time.monotonic() >= self._due:
            with suppress(OSError):
                self._existed = self._path.exists()
            self._due = time.monotonic() + self._pause
        return self._existed
