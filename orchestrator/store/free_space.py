"""Stops new cells from starting when the storage is almost full."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rich.filesize import decimal

from trainables.storage.paths import StorePath
from trainables.storage.retry import space_left

LEAST_FREE_BYTES = 512 * 2**20
"""Below this no further cell starts; the rest is for the cells that run."""
SPACE_SECONDS = 5.0


class FreeSpace:
    """Watches the file system of a study's folder; object stores have room for everything.

    Args:
        study: The study's folder, or its place in an object store.
        say: Called once when space runs short, and once when there is enough again.
    """

    def __init__(self, study: StorePath, say: Callable[[str], None]) -> None:
        self._study = study
        self._say = say
        self._due = 0.0
        self._short = False

    def is_short(self) -> bool:
        """Return whether space is short, as measured within the last few seconds."""
        if isinstance(self._study, Path) and time.monotonic() >= self._due:
            self._look(self._study)
            self._due = time.monotonic() + SPACE_SECONDS
        return self._short

    def _look(self, study: Path) -> None:
        try:
            short = shutil.disk_usage(study).free < LEAST_FREE_BYTES
        except OSError:
            return  # The next write will raise what is wrong.
        if short != self._short:
            self._say(
                f"{study}: {space_left(study)}; "
                + (
                    f"no further cell starts below {decimal(LEAST_FREE_BYTES)}: free some space, "
                    "and this run continues"
                    if short
                    else "enough for further cells to start"
                )
            )
        self._short = short
