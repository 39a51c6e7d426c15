"""What a study holds, told on the console: the status, the table of cells, the dry run."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from orchestrator.progress import RUNNING, WAITING
from orchestrator.selection import Options, Selection
from orchestrator.store import CellState, Store, StoredCell, waits_for
from trainables.cell import Cell

SECONDS_BETWEEN_REPORTS = 120.0
"""A cell of a driven study that has reported within this time is shown as running."""

ASSUMED_MACS_PER_SECOND = 5e13
"""Sustained multiply-accumulates of one data-centre GPU in mixed precision: an assumption, used
only while no cell of the study has been measured."""


def status_view(store: Store) -> Group:
    """Return cells by state, what runs, and what failed with the reason."""
    cells = [store.cell(cell_id) for cell_id in store.cell_ids()]
    shown = {cell.id: shown_state(store, cell) for cell in cells}
    counts = Counter(state.partition(" ")[0] for state in shown.values())
    parts = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    driver = store.driver()
    lines = [
        f"{store.read_study()['name']}: {len(cells)} cells: {parts}",
        f"run by {driver}" if driver else "no driver is running it",
    ]
    waiting = Counter(state for state in shown.values() if state.startswith(WAITING))
    lines += [f"{state}: {count} cells" for state, count in waiting.items()]
    failed = [cell for cell in cells if shown[cell.id] == CellState.FAILED]
    lines += [f"failed: {cell.id}: {cell.reason()} (see {cell.error_file})" for cell in failed]
    lines += [f"gentler: {cell.id}: {gentler}" for cell in cells if (gentler := cell.gentler())]
    running = [cell for cell in cells if shown[cell.id] == RUNNING]
    texts = [Text(line) for line in lines]  # Not markup: reasons may hold brackets.
    return Group(*texts, *([cells_table(store, running)] if running else []))


def cells_table(store: Store, cells: Sequence[StoredCell]) -> Table:
    """Return a row a cell: what it is, how far it is and what it reached."""
    table = Table(box=None, pad_edge=False)
    for column in ("cell", "state", "epoch", "loss", "accuracy"):
        table.add_column(column, overflow="fold")
    for cell in cells:
        report = cell.last_report()
        table.add_row(
            cell.id,
            ", gentler: ".join(filter(None, (shown_state(store, cell), cell.gentler()))),
            f"{report['epoch']}/{report['epochs']}" if report else "",
            f"{report['loss']:.3f}" if report.get("loss") is not None else "",
            _reached(cell, report.get("best_accuracy")),
        )
    return table


def shown_state(store: Store, cell: StoredCell) -> str:
    """Return the cell's state, in words.

    It is `running` where a live driver's cell has just reported, and `waiting for CELL_ID` before
    its teacher is trained.
    """
    state = cell.state()
    recent = cell.last_report().get("time", 0.0) > time.time() - SECONDS_BETWEEN_REPORTS
    if state is CellState.INTERRUPTED and recent and store.driver():
        return RUNNING
    return _state_in_words(store, cell.cell(), state)


def _state_in_words(store: Store, cell: Cell, state: CellState) -> str:
    teacher = (
        waits_for(store, cell) if state in (CellState.PENDING, CellState.INTERRUPTED) else None
    )
    return f"{WAITING} for {teacher}" if teacher else str(state)


def describe(selection: Selection, options: Options, console: Console) -> None:
    """Print the cells a launch would work on and what that would take; start nothing."""
    from orchestrator.preflight import preflight  # Imports torch and timm.

    cells = selection.selected
    table = Table(box=None, pad_edge=False)
    for column in ("cell", "dataset", "method", "capacity", "keep rate", "reserves", "state"):
        table.add_column(column, overflow="fold")
    for cell in cells:
        table.add_row(
            cell.id,
            cell.dataset,
            cell.method,
            cell.capacity,
            f"{cell.keep_rate:g}",
            str(selection.study.reserved(cell.capacity)),
            _state_in_words(selection.store, cell, selection.stored(cell).state()),
        )
    console.print(table)
    counts = Counter(selection.stored(cell).state() for cell in cells)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    console.print(f"{len(cells)} cells: {states}", highlight=False)
    macs = preflight(selection, options, console)
    for note in selection.notes():
        console.print(note, highlight=False, soft_wrap=True)
    hours = sum(macs.values()) / ASSUMED_MACS_PER_SECOND / 3600
    console.print(
        f"left to train: {sum(macs.values()):.3g} multiply-accumulates, about {hours:.2g} GPU "
        f"hours at an assumed {ASSUMED_MACS_PER_SECOND:.0e} a second and GPU",
        highlight=False,
    )


def _reached(cell: StoredCell, best_accuracy: float | None) -> str:
    metrics = cell.evaluation() if cell.state() is CellState.DONE else None
    if metrics is not None:
        return f"{metrics['metric']} {metrics['accuracy']:.2f} %"
    return f"{best_accuracy:.2f} %" if best_accuracy is not None else ""
