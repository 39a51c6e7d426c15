"""Reuses cells that another study of the same storage has trained.

The same id is the same cell in every study; see `Cell.id` for what it covers. Files are checked
against their SHA-256 in their new place before the record that vouches for them is written.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from orchestrator.store.stored_cell import CellState, StoredCell
from orchestrator.store.verified import Verified, written
from orchestrator.study.selection import Selection
from trainables.cell.cell import Cell
from trainables.storage import layout
from trainables.storage.files import DamagedFileError, share_file

TAKEN_OVER = "taken over"
"""Event in the log of a cell that comes from another study."""

Candidates = dict[str, list[StoredCell]]
"""Folders to take each cell from, by id: done cells first, then by the study's name."""


def trained_elsewhere(selection: Selection) -> Candidates:
    """Return the cells that this study has to train and other studies have trained."""
    wanted = {
        cell.id: cell for cell in selection.selected if not selection.stored(cell).is_trained()
    }
    found: Candidates = {}
    storage = selection.store.path.parent
    for path in layout.of_all_studies(storage, layout.RESULT) if wanted else ():
        cell = wanted.get(path.parent.name)
        if cell is None or path.parent.parent.parent.name == selection.store.path.name:
            continue
        place = StoredCell(path.parent, cell.eval_keep_rates)
        with suppress(PermissionError):  # It is somebody else's, who shares it with others.
            place.state()
            found.setdefault(cell.id, []).append(place)
    return {cell_id: sorted(places, key=_worse) for cell_id, places in found.items()}


def left_for_this_study(selection: Selection) -> Selection:
    """Return the selection without cells that are done in other studies."""
    done = {
        cell_id
        for cell_id, places in trained_elsewhere(selection).items()
        if places[0].state() is CellState.DONE
    }
    return selection.without(done)


def take_over_cells(selection: Selection, verified: Verified, say: Callable[[str], None]) -> bool:
    """Take over cells that other studies have trained; return whether there were any.

    Args:
        selection: The study; its lock must be held.
        verified: Record to add the files to.
        say: Called with what was taken over from where, and with what was damaged.
    """
    taken: Counter[str] = Counter()
    cells = {cell.id: cell for cell in selection.selected}
    candidates = trained_elsewhere(selection)
    for cell_id, places in candidates.items():
        stored = selection.stored(cells[cell_id])
        for place in places:
            try:
                _take_over(place, stored, cells[cell_id])
            except (DamagedFileError, PermissionError) as error:
                say(f"{error}; it is not reused")
                continue
            taken[_study(place)] += 1
            verified.add(written(selection.store.path, stored))
            break
    for study, count in sorted(taken.items()):
        say(f"{count} {'cell' if count == 1 else 'cells'} reused from {study}")
    return bool(candidates)


def _take_over(source: StoredCell, target: StoredCell, cell: Cell) -> None:
    """Take over a cell's training, then the evaluations of it that there are.

    Raises:
        DamagedFileError: A file of the training is damaged; the target is unchanged or empty.
    """
    result = source.result()
    if result is None or source.cell().id != cell.id:
        raise DamagedFileError(layout.CELL.below(source.path), f"it is not that of {cell.id}")
    source.best.check()
    attempted = bool(source.attempts())
    target.discard_training()
    target.discard_evaluation()
    target.take_log(source, {"event": TAKEN_OVER, "study": _study(source)})
    if attempted:
        share_file(layout.ATTEMPTS.below(source.path), layout.ATTEMPTS.below(target.path))
    target.best.take_over(source.best)
    target.write_result(result)
    target.clear_error()
    for rate, folder in source.evaluations().items():
        target.evaluations()[rate].files.take_over(folder.files)


def _study(place: StoredCell) -> str:
    return place.path.parent.parent.name


def _worse(place: StoredCell) -> tuple[bool, str]:
    return place.state() is not CellState.DONE, _study(place)
