"""The file with which a driver asks the cells of its launch, on whatever node, to save and end."""

import time
from contextlib import suppress

from trainables.store_path import ObjectPath, store_path

SECONDS_BETWEEN_REQUESTS = 5.0
"""How often an object store is asked, however short the steps are."""


class StopFile:
    """Tells whether the file exists.

    Args:
        place: Its path or URI.
    """

    def __init__(self, place: str) -> None:
        self._path = store_path(place)
        self._pause = SECONDS_BETWEEN_REQUESTS if isinstance(self._path, ObjectPath) else 0.0
        self._due = 0.0
        self._existed = False

    def exists(self) -> bool:
        """Look, or repeat what was seen a moment ago in an object store, or when it answered."""
        if time.monotonic() >= self._due:
            with suppress(OSError):
                self._existed = self._path.exists()
            self._due = time.monotonic() + self._pause
        return self._existed
