"""What a study holds, told on the console: the status, the table of cells, the dry run."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import joblib
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from orchestrator.commands.tuning_in_words import tuning_in_words
from orchestrator.console import line
from orchestrator.errors import UserError
from orchestrator.store.disk_use import files_below
from orchestrator.store.searches import stored_choice
from orchestrator.store.store import Store, waits_for
from orchestrator.store.stored_cell import CellState, StoredCell
from orchestrator.study.estimates import DiskPeak, Estimates
from orchestrator.study.reuse import left_for_this_study
from orchestrator.study.selection import Options, Selection
from orchestrator.study.study import AUTO
from orchestrator.training.calibrating import Calibrations, in_numbers, kind_of
from orchestrator.training.expected import (
    ASSUMED_CPU_MACS_PER_SECOND,
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
from trainables.cell.cell import Cell
from trainables.storage.retry import space_left


def read_status(store: Store) -> Status:
    """Return how far a study is: as its live driver tells, or else as its files do."""
    last, driver = last_status(store), store.driver()
    ids = [*store.cell_ids(), *store.trial_ids()]
    if last and _tells(last, driver):
        others = len(ids) - sum(last.states.values())
        return last.model_copy(update={"others": others})
    cells = [store.cell(cell_id) for cell_id in ids]
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


def describe_launch(selection: Selection, options: Options, console: Console) -> None:
    """Print the cells a launch would work on and what that would take; start nothing."""
    cells = [cell for cell in selection.selected if not cell.trial]
    calibrations = Calibrations(selection.store.calibrations)
    table = Table(box=None, pad_edge=False)
    for column in ("cell", "dataset", "method", "capacity", "budget", "reserves", "state"):
        table.add_column(column, overflow="fold")
    for cell in cells:
        table.add_row(
            cell.id,
            cell.dataset,
            cell.method,
            cell.capacity,
            cell.budget,
            _reserves(selection, cell, calibrations),
            _state_of(selection, cell),
        )
    console.print(table)
    counts = Counter(selection.stored(cell).state() for cell in cells)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    line(console, f"{len(cells)} cells: {states}")
    ours = left_for_this_study(selection)
    found = _estimates(ours, options, console)
    if elsewhere := len(selection.selected) - len(ours.selected):
        line(console, f"to be reused from other studies: {elsewhere} cells")
    for note in selection.notes():
        line(console, note)
    left = [cell for cell in selection.selected if cell.id in found.macs]
    rates = calibrated_rates(calibrations, left)
    line(console, hours_in_words(found.macs, left, rates))
    for words in tuning_in_words(selection, expected_seconds(found.macs, left, {}, rates)):
        line(console, words)
    for need in _disk(ours, options, found):
        line(console, need)


def _state_of(selection: Selection, cell: Cell) -> str:
    state, search = selection.stored(cell).state(), selection.searches.of(cell.id)
    if search and state in UNTRAINED and stored_choice(selection.store, search) is None:
        return f"{Activity.WAITING} for its choice"
    return _state_in_words(selection.store, cell, state)


def _estimates(selection: Selection, options: Options, console: Console) -> Estimates:
    """Return the launch's estimates; where it would be refused, print what can be told, too."""
    from orchestrator.study.preflight import preflight, published_forecast  # Imports torch.

    try:
        return preflight(selection, options, console)
    except UserError:
        if found := published_forecast(selection, options.weights):
            left = selection.unfinished()
            words = hours_in_words(found.macs, left, {})
            line(console, f"{words}, by the published numbers of images")
            for words in tuning_in_words(selection, expected_seconds(found.macs, left, {}, {})):
                line(console, words)
        raise


def _reserves(selection: Selection, cell: Cell, calibrations: Calibrations) -> str:
    """Return what a cell asks for and, of what it leaves to a calibration, what is known."""
    wanted = selection.study.reserved(cell.capacity)
    if AUTO not in (wanted.cpu, wanted.gpu):
        return str(wanted)
    known = {record["kind"]["device"]: record for record in calibrations.of_all_devices(cell)}
    found = [f"{device}: {in_numbers(record)}" for device, record in known.items()]
    return f"{wanted} ({'; '.join(found) or 'not calibrated yet'})"


def hours_in_words(macs: Mapping[str, float], cells: Sequence[Cell], calibrated: Rates) -> str:
    """Return how long the cells would take with a whole GPU each, one after the other."""
    hours = sum(expected_seconds(macs, cells, {}, calibrated).values()) / 3600
    work = f"left to train: {sum(macs.values()):.3g} multiply-accumulates"
    if calibrated:
        at = f"the speed measured of {len(calibrated)} of {len(set(map(kind_of, cells)))} kinds"
        return f"{work}, about {hours:.2g} GPU hours at {at}"
    at = f"an assumed {ASSUMED_MACS_PER_SECOND:.0e} a second and GPU"
    return f"{work}, about {hours:.2g} GPU hours at {at}{_on_cpus(macs)}"


def _on_cpus(macs: Mapping[str, float]) -> str:
    """Return how long that takes here where this machine has no GPU, nothing where it has one."""
    if _gpus():
        return ""
    hours, cpus = sum(macs.values()) / ASSUMED_CPU_MACS_PER_SECOND / 3600, joblib.cpu_count()
    assumed = f"an assumed {ASSUMED_CPU_MACS_PER_SECOND:.0e} a second and CPU"
    return (
        f"; this machine has no GPU: about {hours:.2g} CPU hours at {assumed}, "
        f"{hours / cpus:.2g} hours with its {cpus}"
    )


def _disk(selection: Selection, options: Options, found: Estimates) -> Iterator[str]:
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
    return _gpus() or joblib.cpu_count()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _reached(cell: StoredCell, best_accuracy: float | None) -> str:
    state = cell.state()
    if state is CellState.RECORDED and (run := cell.imported()):
        return f"{run['metric']} {run['max_accuracy']:.2f} % in W&B"
    metrics = cell.evaluation() if state is CellState.DONE else None
    if metrics is not None:
        return f"{metrics['metric']} {metrics['accuracy']:.2f} %"
    return f"{best_accuracy:.2f} %" if best_accuracy is not None else ""
