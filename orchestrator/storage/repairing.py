"""What a launch does first: find what is damaged in the store, remove and name it."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from rich.console import Console

from orchestrator.data.datasets import work_shown
from orchestrator.results.samples import repair_samples
from orchestrator.storage.driver_lock import driving
from orchestrator.storage.store import Store, StoredCell
from orchestrator.storage.verified import Verified
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

    return _repair_all([cell.id for cell in cells], store, repair, verified, console)


def verify_study(store: Store, console: Console) -> list[DamagedFileError]:
    """Read every big file of all cells, also of those no longer in the study; else as above.

    Raises:
        UserError: A driver runs the study.
    """
    from orchestrator.results.findings import Findings  # A launch need not wait for the analysis.

    verified = Verified(store.path)

    def repair(stored: StoredCell) -> list[DamagedFileError]:
        return stored.repair(verified.read)

    with driving(store.path, console.print, lambda holder: None):
        damaged = _repair_all(store.cell_ids(), store, repair, verified, console)
        damaged += Findings(store.comparisons).read()
        damaged += repair_samples(store)
        verified.save()
    for error in damaged:
        console.print(f"{error}; removed", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{verified.files_read} files read, {len(damaged)} damaged", highlight=False)
    return damaged


def _repair_all(
    cell_ids: Sequence[str],
    store: Store,
    repair: Callable[[StoredCell], list[DamagedFileError]],
    verified: Verified,
    console: Console,
) -> list[DamagedFileError]:
    damaged: list[DamagedFileError] = []
    started = time.monotonic()
    with ThreadPoolExecutor(READERS) as threads, work_shown(console) as show:
        # Each thread has the patience of this one.
        contexts = [copy_context() for _ in cell_ids]
        repaired = threads.map(
            lambda context, cell_id: context.run(repair, store.cell(cell_id)), contexts, cell_ids
        )
        for number, errors in enumerate(repaired, start=1):
            damaged += errors
            if verified.files_read and time.monotonic() - started > SILENT_SECONDS:
                show("reading files to see that they are whole", number, len(cell_ids))
    return damaged


def _failed_and_their_teachers(store: Store, cells: Iterable[Cell]) -> set[str | None]:
    failed = [cell for cell in cells if store.cell(cell.id).error_file.exists()]
    return {name for cell in failed for name in (cell.id, cell.prerequisite)}
