"""Find damaged files in a store, remove and name them; a launch does that first."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

from rich.console import Console

from orchestrator.console import line, work_shown
from orchestrator.results.sample_store import repair_samples
from orchestrator.store.driver_lock import driving
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import StoredCell
from orchestrator.store.verified import Verified
from trainables.cell.cell import Cell
from trainables.storage.files import DamagedFileError

READERS = 4
"""Threads that read files, hence also big files in memory at once."""


SILENT_SECONDS = 2.0
"""Seconds after which a progress bar is shown."""


def repair_cells(
    store: Store, cells: Sequence[Cell], verified: Verified, console: Console
) -> list[DamagedFileError]:
    """Remove what is damaged of these cells, and everything that was made from it.

    Files that are known to be whole are not read, except those of cells that failed and of their
    teachers: a damaged file may be why they failed.

    Returns:
        What was damaged, in the order of the cells.
    """
    suspects = _failed_and_their_teachers(store, cells)

    def repair(stored: StoredCell) -> list[DamagedFileError]:
        return stored.repair(verified.read if stored.id in suspects else verified.check)

    return _repair_all([cell.id for cell in cells], store, repair, verified, console)


def verify_study(store: Store, console: Console) -> list[DamagedFileError]:
    """Read every big file of all cells, even of cells no longer in the study, and repair.

    Raises:
        UserError: A driver runs the study.
    """
    from orchestrator.results.cached_comparisons import (
        CachedComparisons,  # Keeps launches from loading the analysis.
    )

    verified = Verified(store.path)

    def repair(stored: StoredCell) -> list[DamagedFileError]:
        return stored.repair(verified.read)

    with driving(store.path, partial(line, console), lambda holder: None):
        damaged = _repair_all(
            [*store.cell_ids(), *store.trial_ids()], store, repair, verified, console
        )
        damaged += CachedComparisons(store.comparisons).read()
        damaged += repair_samples(store)
        verified.save()
    for error in damaged:
        line(console, f"{error}; removed")
    line(console, f"{verified.files_read} files read, {len(damaged)} damaged")
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
        # Each thread retries as this one does: threads do not inherit context variables.
        contexts = [copy_context() for _ in cell_ids]
        repaired = threads.map(
            lambda context, cell_id: context.run(repair, store.cell(cell_id)), contexts, cell_ids
        )
        for number, errors in enumerate(repaired, start=1):
            damaged += errors
            if verified.files_read and time.monotonic() - started > SILENT_SECONDS:
                show("checking that files are whole", number, len(cell_ids))
    return damaged


def _failed_and_their_teachers(store: Store, cells: Iterable[Cell]) -> set[str | None]:
    failed = [cell for cell in cells if store.cell(cell.id).error_file.exists()]
    return {name for cell in failed for name in (cell.id, cell.prerequisite)}
