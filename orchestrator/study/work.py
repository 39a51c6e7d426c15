"""What a launch has left to do, as the store shows."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.console import Context
from orchestrator.results.reporting import report_is_current
from orchestrator.results.sample_store import samples_are_current
from orchestrator.results.speed_jobs import (
    SpeedJob,
    can_be_measured,
    jobs,
    speeds_are_current,
    update_speeds,
)
from orchestrator.results.table_store import fingerprint, tables_are_current
from orchestrator.store.measurements import Measurements
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState, StoredCell
from orchestrator.study.selection import Options, Selection
from trainables.cell.cell import Cell
from trainables.storage.files import DamagedFileError


@dataclass(frozen=True)
class Outdated:
    """What has to be made again because cells have changed, as far as that is known."""

    tables: bool = True
    samples: bool = True
    speeds: bool = True


@dataclass(frozen=True)
class Remaining:
    """What is left of the phases that need Ray."""

    train: list[Cell]
    evaluate: list[Cell]
    compare: bool
    sample: bool
    measure: list[SpeedJob]
    outdated: Outdated
    """What there was to make again before, which alone is no reason to start Ray."""

    def __bool__(self) -> bool:
        lists = self.train or self.evaluate or self.measure
        return bool(lists or self.compare or self.sample)


def left_to_do(selection: Selection, options: Options, context: Context) -> Remaining:
    """Return what is left of the phases that are asked for, except of the report."""
    cells = stored_cells(selection)
    states = {cell.id: cell.state() for cell in cells}
    trials = [cell for cell in selection.selected if cell.trial]
    states |= {cell.id: selection.stored(cell).state() for cell in trials}
    unfinished = [cell for cell in selection.selected if states[cell.id] is not CellState.DONE]
    trained = {cell.id for cell in unfinished if selection.store.cell(cell.id).result()}
    train = [cell for cell in unfinished if cell.id not in trained and not cell.imported]
    train = train if "train" in options.phases else []
    evaluate = [cell for cell in unfinished if cell.id in trained]
    known = {CellState.DONE, CellState.RECORDED} & set(states.values())
    wanted = "compare" in options.phases and bool(unfinished or known)
    outdated = Outdated() if unfinished else _outdated(selection.store, cells, context)
    measures = "measure" in options.phases and outdated.speeds
    return Remaining(
        train=train,
        evaluate=evaluate if "evaluate" in options.phases else [],
        compare=wanted and outdated.tables,
        sample=wanted and outdated.samples,
        measure=_to_measure(selection, {cell.id for cell in train}) if measures else [],
        outdated=outdated,
    )


def update_measured(selection: Selection) -> None:
    """Have the tables say what is known of speed."""
    store, cells = selection.store, stored_cells(selection)
    left = jobs(selection.cells, selection.study.measure, Measurements(store.measurements))
    missing = any(can_be_measured(store, job.configuration) for job in left)
    update_speeds(store, cells, complete=not missing)


def stored_cells(selection: Selection) -> list[StoredCell]:
    """Return all cells of the study as the store holds them."""
    return [selection.stored(cell) for cell in selection.cells]


def report_is_left(selection: Selection, context: Context) -> bool:
    """Return whether the page is missing, damaged, or does not show the study as it is."""
    cells = stored_cells(selection)
    return not _is_whole(lambda: report_is_current(selection.store, cells), context)


def _to_measure(selection: Selection, train: Container[str]) -> list[SpeedJob]:
    """Return what is to be measured once these cells are trained."""
    store = selection.store
    reported = [cell for cell in selection.selected if not cell.trial]
    left = jobs(reported, selection.study.measure, Measurements(store.measurements))
    return [
        job
        for job in left
        if job.configuration.trained_as in train or can_be_measured(store, job.configuration)
    ]


def _outdated(store: Store, cells: Sequence[StoredCell], context: Context) -> Outdated:
    inputs = fingerprint(cells)
    current = (tables_are_current, samples_are_current, speeds_are_current)
    return Outdated(*(not _is_whole(partial(check, store, inputs), context) for check in current))


def _is_whole(check: Callable[[], bool], context: Context) -> bool:
    try:
        return check()
    except DamagedFileError as error:
        context.note(f"{error}; it will be made again")
        return False
