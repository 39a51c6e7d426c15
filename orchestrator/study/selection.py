"""What a launch works on: its options, the study, and the cells selected from it."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from orchestrator.errors import UserError, not_one_of
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState, StoredCell
from orchestrator.study.expansion import added_teachers, expand
from orchestrator.study.names import unused_names
from orchestrator.study.study import Study, load_study
from orchestrator.study.trials import Searches, searches_of
from trainables.cell.cell import Cell
from trainables.storage.paths import ObjectPath, StorePath, store_path

PHASES = ("train", "evaluate", "compare", "measure", "report")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line; see `tokensweep run --help`."""

    study: str = "demo"
    storage: StorePath = Path("runs")
    data: Path | None = None
    weights: Path | None = None
    address: str | None = None
    settings: Sequence[str] = ()
    only: Sequence[str] = ()
    phases: Sequence[str] = PHASES
    dry_run: bool = False
    retry_failed: bool = False
    max_concurrent: int | None = None
    dashboard: bool = False
    verbose: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Selection:
    """A study, its cells, and those of them that this launch works on."""

    study: Study
    cells: Sequence[Cell]
    """What is reported; trials are not among them."""
    selected: Sequence[Cell]
    store: Store
    added: Sequence[Cell] = ()
    """Cells that no grid lists: they only teach others."""
    pulled_in: Sequence[Cell] = ()
    """Selected cells that were not asked for but teach cells that were."""
    searches: Searches = field(default_factory=Searches)
    """Choices that cells wait for, and their trials."""

    def stored(self, cell: Cell) -> StoredCell:
        """Return the folder of a cell, with the evaluations that the study now asks for."""
        return self.store.cell(cell.id, cell.eval_keep_rates)

    def without(self, cell_ids: Container[str]) -> "Selection":
        """Return this selection without some of the selected cells."""
        return replace(self, selected=[cell for cell in self.selected if cell.id not in cell_ids])

    def unfinished(self) -> list[Cell]:
        """Return the selected cells that are not done."""
        return [cell for cell in self.selected if self.stored(cell).state() is not CellState.DONE]

    def notes(self) -> list[str]:
        """Return what to print: names without effect, and cells that nobody has asked for."""
        notes = unused_names(self.study)
        if self.added:
            notes.append(f"added as teachers because no grid lists them: {_listed(self.added)}")
        teachers = [cell for cell in self.pulled_in if not cell.trial]
        if teachers:
            notes.append(
                f"also selected because selected cells learn from them: {_listed(teachers)}"
            )
        if trials := len(self.pulled_in) - len(teachers):
            notes.append(f"also selected to choose values of recipes: {trials} trials")
        return notes

    def untrained(self) -> list[Cell]:
        """Return the selected cells whose training is not finished."""
        trained = (CellState.TRAINED, CellState.DONE)
        return [cell for cell in self.selected if self.stored(cell).state() not in trained]


def select(options: Options) -> Selection:
    """Read the study and find its store.

    Raises:
        UserError: The study or an option is not valid.
    """
    for phase in options.phases:
        if phase not in PHASES:
            raise not_one_of("--stages", phase, PHASES)
    _check_storage(options.storage)
    if options.weights is not None and not options.weights.is_dir():
        raise UserError(f"--weights is {str(options.weights)!r}, but there is no such folder")
    study = load_study(options.study, options.settings)
    store = Store(options.storage / study.name)
    cells = [*expand(study), *store.imported_cells()]
    if not cells:
        raise UserError(
            f"{study.name} has no cells: give it grids, or import runs into {store.path}"
        )
    searches = searches_of(study)
    selected = [
        cell
        for cell in [*cells, *(searches.trials if options.only else ())]
        if _matches(cell.id, options.only)
        and not (cell.imported and store.cell(cell.id).state() is CellState.RECORDED)
    ]
    if options.only and not selected:
        raise UserError(f"--only {' '.join(options.only)} matches none of the {len(cells)} cells")
    return with_teachers(
        Selection(study, cells, selected, store, added=added_teachers(study), searches=searches),
        options,
    )


def storage_path(text: str) -> StorePath:
    """Parse the folder or URI of a storage.

    Raises:
        UserError: The URI is not one of a store, or the store does not answer.
    """
    try:
        path = store_path(text)
        if isinstance(path, ObjectPath):
            path.exists()
    except ValueError as error:
        raise UserError(f"storage: {error}") from error
    except OSError as error:
        raise UserError(f"cannot reach the storage {text}: {error}") from error
    return path


def _check_storage(storage: StorePath) -> None:
    if not isinstance(storage, Path):
        return
    for path in (storage, *storage.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"--storage is {str(storage)!r}, but {path} is not a folder")


def with_teachers(selection: Selection, options: Options) -> Selection:
    """Add what the untrained cells wait for, teachers and trials, if the launch trains."""
    if "train" not in options.phases:
        return selection
    everything = [*selection.cells, *selection.searches.trials]
    by_id = {cell.id: cell for cell in everything}
    asked_for = selection.without({cell.id for cell in selection.pulled_in}).selected
    taken = {cell.id for cell in asked_for}
    untrained = cache(lambda cell_id: not selection.store.cell(cell_id).is_trained())
    left = [cell.id for cell in asked_for]
    while left:
        cell_id = left.pop()
        waits_for = selection.searches.prerequisites(by_id[cell_id]) if untrained(cell_id) else ()
        found = set(filter(untrained, waits_for)) - taken
        taken |= found
        left += found
    pulled_in = taken - {cell.id for cell in asked_for}
    return replace(
        selection,
        selected=[cell for cell in everything if cell.id in taken],
        pulled_in=[cell for cell in everything if cell.id in pulled_in],
    )


def _listed(cells: Iterable[Cell]) -> str:
    return ", ".join(cell.id for cell in cells)


def _matches(cell_id: str, globs: Iterable[str]) -> bool:
    globs = list(globs)
    return not globs or any(fnmatch(cell_id, glob) for glob in globs)
