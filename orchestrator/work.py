"""What a launch has left to do, as the store tells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.results.reporting import Say, Tell, report_is_current, write_report
from orchestrator.results.samples import samples_are_current
from orchestrator.results.tables import fingerprint, tables_are_current
from orchestrator.selection import Options, Selection
from orchestrator.storage.store import CellState, Store, StoredCell
from trainables.cell import Cell
from trainables.files import DamagedFileError


@dataclass(frozen=True)
class Work:
    """What is left that needs Ray."""

    train: list[Cell]
    evaluate: list[Cell]
    compare: bool
    sample: bool

    def __bool__(self) -> bool:
        return bool(self.train or self.evaluate or self.compare or self.sample)


def left_to_do(selection: Selection, options: Options, say: Say) -> Work:
    """Return what the stages asked for still have to do."""
    cells = stored_cells(selection)
    states = {cell.id: cell.state() for cell in cells}
    unfinished = [cell for cell in selection.selected if states[cell.id] is not CellState.DONE]
    trained = {cell.id for cell in unfinished if selection.store.cell(cell.id).result()}
    train = [cell for cell in unfinished if cell.id not in trained and not cell.imported]
    evaluate = [cell for cell in unfinished if cell.id in trained]
    known = {CellState.DONE, CellState.RECORDED} & set(states.values())
    wanted = "compare" in options.stages and bool(unfinished or known)
    compare, sample = (True, True) if unfinished else _outdated(selection.store, cells, say)
    return Work(
        train=train if "train" in options.stages else [],
        evaluate=evaluate if "evaluate" in options.stages else [],
        compare=wanted and compare,
        sample=wanted and sample,
    )


def refresh_report(
    selection: Selection, data: Path | None, say: Say, tell: Tell, stopping: Callable[[], bool]
) -> None:
    """Write the page again unless it is whole and shows the study as it is; see `write_report`."""
    cells = stored_cells(selection)
    if not _is_whole(lambda: report_is_current(selection.store, cells), say):
        write_report(selection.store, cells, data, say, tell, stopping)


def stored_cells(selection: Selection) -> list[StoredCell]:
    """Return all cells of the study as the store holds them."""
    return [selection.stored(cell) for cell in selection.cells]


def _outdated(store: Store, cells: Sequence[StoredCell], say: Say) -> tuple[bool, bool]:
    """Tell whether the tables, and whether the samples, have to be made anew."""
    inputs = fingerprint(cells)
    tables = _is_whole(lambda: tables_are_current(store, inputs), say)
    samples = _is_whole(lambda: samples_are_current(store, inputs), say)
    return not tables, not samples


def _is_whole(check: Callable[[], bool], say: Say) -> bool:
    try:
        return check()
    except DamagedFileError as error:
        say(f"{error}; it is made again")
        return False
