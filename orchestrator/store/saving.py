"""Tells whether all is saved that cells have reported, so that no line promises it unchecked."""

from collections.abc import Iterable

from orchestrator.store.stored_cell import StoredCell

CELLS_NAMED = 3


def saved_in_words(cells: Iterable[StoredCell]) -> str:
    """Compare the newest states of untrained cells with their logs; return what that finds."""
    try:
        behind = [words for cell in cells if (words := _behind(cell))]
    except OSError as error:
        return f"what is saved cannot be checked: {error}"
    if not behind:
        return "everything is saved"
    further = len(behind) - CELLS_NAMED
    named = behind[:CELLS_NAMED] + ([f"{further} further cells"] if further > 0 else [])
    return f"not everything is saved: {', '.join(named)}"


def _behind(cell: StoredCell) -> str | None:
    reported = cell.last_report().get("step", 0)
    if not reported or cell.is_trained() or (saved := cell.saved_step()) >= reported:
        return None
    return f"{cell.id} was at step {reported} and goes on from step {saved}"
