"""What a study holds, told on the console: the status, the table of cells, the dry run."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from orchestrator.forecast import Forecast
from orchestrator.packing.calibrating import Calibrations, in_numbers, kind_of
from orchestrator.selection import Options, Selection
from orchestrator.storage.disk_need import DiskPeak
from orchestrator.storage.disk_use import files_below
from orchestrator.storage.store import CellState, Store, StoredCell, waits_for
from orchestrator.storage.taking_over import left_for_this_study
from orchestrator.study import AUTO
from orchestrator.training.expected import (
    ASSUMED_MACS_PER_SECOND,
    Rates,
    calibrated_rates,
    expected_seconds,
)
from orchestrator.watching.status import (
    UNTRAINED,
    Activity,
    CellReason,
    Status,
    count_states,
    last_status,
)
from trainables.cell import Cell
from trainables.patience import space_left


def read_status(store: Store) -> Status:
    """Return how far a study is: as its live driver tells, or else as its files do."""
    last, driver = last_status(store), store.driver()
    if last and _tells(last, driver):
        others = len(store.cell_ids()) - sum(last.states.values())
        return last.model_copy(update={"others": others})
    cells = [store.cell(cell_id) for cell_id in store.cell_ids()]
    states = {cell.id: cell.state() for cell in cells}
    waiting = {
        cell.id: teacher
        for cell in cells
        if states[cell.id] in UNTRAINED and (teacher := waits_for(store, cell.cell()))
    }
    shown: dict[str, str] = states | dict.fromkeys(waiting, Activity.WAITING)
    return Status(
        study=store.read_study()["name"],
        time=time.time(),
        driver=driver,
        states=count_states(shown.values()),
        waiting=dict(Counter(waiting.values())),
        launch=last.launch if last else None,
        cluster=last.cluster if last else None,
        failed=tuple(
            CellReason(cell=cell.id, reason=cell.reason(), see=str(cell.error_file))
            for cell in cells
            if states[cell.id] is CellState.FAILED
        ),
        gentler=tuple(
            CellReason(cell=cell.id, reason=gentler)
            for cell in cells
            if (gentler := cell.gentler())
        ),
    )


def cells_table(store: Store, cells: Sequence[StoredCell]) -> Table:
    """Return a row a cell: what it is, how far it is, what it reached and takes on the disk."""
    table = Table(box=None, pad_edge=False)
    for column in ("cell", "state", "epoch", "loss", "accuracy", "disk"):
        table.add_column(column, overflow="fold")
    sizes: Counter[str | None] = Counter()
    for file in files_below(store.path):
        sizes[file.cell_id] += file.size
    status = last_status(store)
    live = status is not None and _tells(status, store.driver())
    running = {cell.cell for cell in status.running} if status and live else set()
    for cell in cells:
        report = cell.last_report()
        state = (
            Activity.RUNNING
            if cell.id in running
            else _state_in_words(store, cell.cell(), cell.state())
        )
        table.add_row(
            cell.id,
            ", gentler: ".join(filter(None, (state, cell.gentler()))),
            f"{report['epoch']}/{report['epochs']}" if report else "",
            f"{report['loss']:.3f}" if report.get("loss") is not None else "",
            _reached(cell, report.get("best_accuracy")),
            decimal(sizes[cell.id]),
        )
    return table


def _tells(status: Status, driver: str | None) -> bool:
    """Tell whether a status is that of the driver that runs the study now."""
    return driver is not None and status.driver == driver


def _state_in_words(store: Store, cell: Cell, state: CellState) -> str:
    teacher = waits_for(store, cell) if state in UNTRAINED else None
    return f"{Activity.WAITING} for {teacher}" if teacher else str(state)


def describe(selection: Selection, options: Options, console: Console) -> None:
    """Print the cells a launch would work on and what that would take; start nothing."""
    from orchestrator.preflight import preflight  # Imports torch and timm.

    cells = selection.selected
    calibrations = Calibrations(selection.store.calibrations)
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
            _reserves(selection, cell, calibrations),
            _state_in_words(selection.store, cell, selection.stored(cell).state()),
        )
    console.print(table)
    counts = Counter(selection.stored(cell).state() for cell in cells)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    console.print(f"{len(cells)} cells: {states}", highlight=False)
    ours = left_for_this_study(selection)
    found = preflight(ours, options, console)
    if elsewhere := len(selection.selected) - len(ours.selected):
        console.print(f"done in other studies, to be taken over: {elsewhere} cells")
    for note in selection.notes():
        console.print(note, highlight=False, soft_wrap=True)
    left = [cell for cell in cells if cell.id in found.macs]
    console.print(_hours(found.macs, left, calibrated_rates(calibrations, left)), highlight=False)
    for line in _disk(ours, options, found):
        console.print(line, highlight=False, soft_wrap=True)


def _reserves(selection: Selection, cell: Cell, calibrations: Calibrations) -> str:
    """Return what a cell asks for and, of what it leaves to a calibration, what is known."""
    wanted = selection.study.reserved(cell.capacity)
    if AUTO not in (wanted.cpu, wanted.gpu):
        return str(wanted)
    known = {record["kind"]["device"]: record for record in calibrations.of_all_devices(cell)}
    found = [f"{device}: {in_numbers(record)}" for device, record in known.items()]
    return f"{wanted} ({'; '.join(found) or 'not calibrated yet'})"


def _hours(macs: Mapping[str, float], cells: Sequence[Cell], calibrated: Rates) -> str:
    """Return how long the cells would take with a whole GPU each, one after the other."""
    hours = sum(expected_seconds(macs, cells, {}, calibrated).values()) / 3600
    at = f"an assumed {ASSUMED_MACS_PER_SECOND:.0e} a second and GPU"
    if calibrated:
        at = f"the speed measured of {len(calibrated)} of {len(set(map(kind_of, cells)))} kinds"
    work = f"{sum(macs.values()):.3g} multiply-accumulates"
    return f"left to train: {work}, about {hours:.2g} GPU hours at {at}"


def _disk(selection: Selection, options: Options, found: Forecast) -> Iterator[str]:
    """Yield what the cells take on the disk, and whether that is there."""
    untrained = [found.disk[cell.id] for cell in selection.untrained()]
    trained = {cell.id for cell in selection.unfinished()} - {c.id for c in selection.untrained()}
    at_once = min(len(untrained), options.max_concurrent or _cells_at_once())
    peak = DiskPeak.of(untrained, [found.disk[cell_id] for cell_id in trained], at_once)
    training = f", with {at_once} training at a time" if at_once else ""
    storage = selection.store.path
    free = f"; {space_left(storage)}" if isinstance(storage, Path) else ""
    yield f"left to store{training}: up to {peak}{free}"
    if shortage := peak.shortage(storage):
        yield shortage


def _cells_at_once() -> int:
    """Return how many cells this machine trains at a time, one to a GPU, or else to a CPU."""
    import torch

    return torch.cuda.device_count() or os.cpu_count() or 1


def _reached(cell: StoredCell, best_accuracy: float | None) -> str:
    state = cell.state()
    if state is CellState.RECORDED and (run := cell.imported()):
        return f"{run['metric']} {run['max_accuracy']:.2f} % in W&B"
    metrics = cell.evaluation() if state is CellState.DONE else None
    if metrics is not None:
        return f"{metrics['metric']} {metrics['accuracy']:.2f} %"
    return f"{best_accuracy:.2f} %" if best_accuracy is not None else ""
