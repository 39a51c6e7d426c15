"""Whether a storage has room for what further cells would write."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rich.filesize import decimal

from trainables.patience import space_left
from trainables.store_path import StorePath

LEAST_FREE_BYTES = 512 * 2**20
"""Below this no further cell begins: what is left is for the cells that run."""
SECONDS_BETWEEN_LOOKS = 5.0


class FreeSpace:
    """Watches the file system of a study's folder; object stores have room for everything.

    Args:
        study: The study's folder, or its place in an object store.
        say: Told once when space runs short, and once when there is enough again.
    """

    def __init__(self, study: StorePath, say: Callable[[str], None]) -> None:
        self._study = study
        self._say = say
        self._due = 0.0
        self._short = False

    def is_short(self) -> bool:
        """Look, or repeat what was seen a moment ago."""
        if isinstance(self._study, Path) and time.monotonic() >= self._due:
            self._look(self._study)
            self._due = time.monotonic() + SECONDS_BETWEEN_LOOKS
        return self._short

    def _look(self, study: Path) -> None:
        try:
            short = shutil.disk_usage(study).free < LEAST_FREE_BYTES
        except OSError:
            return  # The next write tells more.
        if short != self._short:
            self._say(
                f"{study}: {space_left(study)}; "
                + (
                    f"no further cell begins below {decimal(LEAST_FREE_BYTES)}: free some space, "
                    "and this run goes on"
                    if short
                    else "enough for further cells to begin"
                )
            )
        self._short = short
