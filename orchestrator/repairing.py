"""What a launch does first: find what is damaged in the store, remove and name it."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from orchestrator.datasets import work_shown
from orchestrator.store import Store, StoredCell
from orchestrator.verified import Verified
from trainables.cell import Cell
from trainables.files import DamagedFileError

READERS = 4
"""Threads that read files: as many big files are in memory at once."""


SILENT_SECONDS = 2.0
"""Reading that takes longer is shown."""


def repair_cells(
    store: Store, cells: Sequence[Cell], verified: Verified, console: Console
) -> list[DamagedFileError]:
    """Remove whatever is damaged of these cells, and all that was made from it.

    Files that are known to be whole are not read, but for those of cells that failed and of
    their teachers: a file that turned out to be damaged may be why.

    Returns:
        What was damaged, in the order of the cells.
    """
    suspects = _failed_and_their_teachers(store, cells)

    def repair(stored: StoredCell) -> list[DamagedFileError]:
        return stored.repair(verified.read if stored.id in suspects else verified.check)

    damaged: list[DamagedFileError] = []
    started = time.monotonic()
    with ThreadPoolExecutor(READERS) as threads, work_shown(console) as show:
        repaired = threads.map(repair, [store.cell(cell.id) for cell in cells])
        for number, errors in enumerate(repaired, start=1):
            damaged += errors
            if verified.files_read and time.monotonic() - started > SILENT_SECONDS:
                show("checking files that are new or have changed", number, len(cells))
    return damaged


def _failed_and_their_teachers(store: Store, cells: Iterable[Cell]) -> set[str | None]:
    failed = [cell for cell in cells if store.cell(cell.id).error_file.exists()]
    return {name for cell in failed for name in (cell.id, cell.prerequisite)}
