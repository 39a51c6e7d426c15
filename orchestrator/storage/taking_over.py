"""Cells that another study of the same storage has finished are taken over, not trained again.

The same id is the same cell in every study; see `Cell.id` for what it covers. Everything is
checked against its SHA-256 in its new place before the record that vouches for it is written.
"""

from collections import Counter
from collections.abc import Callable

from orchestrator.selection import Selection
from orchestrator.storage.store import CellState, StoredCell
from orchestrator.storage.verified import Verified, written
from trainables.cell import Cell
from trainables.files import DamagedFileError, read_checked, share_file

TAKEN_OVER = "taken over"
"""What the log calls it where a cell comes from another study."""

Candidates = dict[str, list[StoredCell]]
"""Where cells can be had, by id: done ones first, then by the study's name."""


def trained_elsewhere(selection: Selection) -> Candidates:
    """Return the cells that this study has yet to train and other studies have trained."""
    wanted = {
        cell.id: cell for cell in selection.selected if not selection.stored(cell).is_trained()
    }
    found: Candidates = {}
    storage = selection.store.path.parent
    for path in storage.glob("*/cells/*/result.json") if wanted else ():
        cell = wanted.get(path.parent.name)
        if cell is not None and path.parent.parent.parent.name != selection.store.path.name:
            found.setdefault(cell.id, []).append(StoredCell(path.parent, cell.eval_keep_rates))
    return {cell_id: sorted(places, key=_worse) for cell_id, places in found.items()}


def left_for_this_study(selection: Selection) -> Selection:
    """Return the selection without the cells that are done in other studies."""
    done = {
        cell_id
        for cell_id, places in trained_elsewhere(selection).items()
        if places[0].state() is CellState.DONE
    }
    return selection.without(done)


def take_over_cells(selection: Selection, verified: Verified, say: Callable[[str], None]) -> bool:
    """Take over what other studies have trained; tell whether any of that was tried.

    Args:
        selection: The study, which nobody else may be running.
        verified: Told of the files that came.
        say: Told of what was taken over from where, and of what was damaged.
    """
    taken: Counter[str] = Counter()
    cells = {cell.id: cell for cell in selection.selected}
    candidates = trained_elsewhere(selection)
    for cell_id, places in candidates.items():
        stored = selection.stored(cells[cell_id])
        for place in places:
            try:
                _take_over(place, stored, cells[cell_id])
            except DamagedFileError as error:
                say(f"{error}; it is not taken over")
                continue
            taken[_study(place)] += 1
            verified.add(written(selection.store.path, stored))
            break
    for study, count in sorted(taken.items()):
        say(f"{count} {'cell' if count == 1 else 'cells'} taken over from {study}")
    return bool(candidates)


def _take_over(source: StoredCell, target: StoredCell, cell: Cell) -> None:
    """Take over a cell's training, then the evaluations of it that there are.

    Raises:
        DamagedFileError: Something of the training is damaged; the target is as it was, or empty.
    """
    result = source.result()
    if result is None or source.cell().id != cell.id:
        raise DamagedFileError(source.path / "cell.json", f"it is not that of {cell.id}")
    source.check_best(read_checked)
    attempted = bool(source.attempts())
    target.discard_training()
    target.discard_evaluation()
    target.take_log(source, {"event": TAKEN_OVER, "study": _study(source)})
    for name in ("attempts.json",) * attempted + ("best/model.safetensors", "best/meta.json"):
        share_file(source.path / name, target.path / name)
    target.write_result(result)
    target.clear_error()
    for rate, folder in source.evaluations().items():
        target.evaluations()[rate].take_over(folder)


def _study(place: StoredCell) -> str:
    return place.path.parent.parent.name


def _worse(place: StoredCell) -> tuple[bool, str]:
    return place.state() is not CellState.DONE, _study(place)
