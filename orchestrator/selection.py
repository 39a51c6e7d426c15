"""What a launch is about: the options given, the study, and the cells selected from it."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from orchestrator.errors import UserError, not_one_of
from orchestrator.storage.store import CellState, Store, StoredCell, waits_for
from orchestrator.study import Study, added_teachers, expand, load_study
from trainables.cell import Cell
from trainables.store_path import ObjectPath, StorePath, store_path

STAGES = ("train", "evaluate", "compare", "report")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says; see `tokensweep run --help`."""

    study: str = "demo"
    storage: StorePath = Path("runs")
    data: Path | None = None
    weights: Path | None = None
    address: str | None = None
    settings: Sequence[str] = ()
    only: Sequence[str] = ()
    stages: Sequence[str] = STAGES
    dry_run: bool = False
    retry_failed: bool = False
    max_concurrent: int | None = None
    dashboard: bool = False
    verbose: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Selection:
    """A study, its cells, and those of them that this launch is about."""

    study: Study
    cells: Sequence[Cell]
    selected: Sequence[Cell]
    store: Store
    added: Sequence[Cell] = ()
    """Those of the cells that no grid has, for they are only there to teach others."""
    pulled_in: Sequence[Cell] = ()
    """Those of the selected cells that were not asked for, but teach some that were."""

    def stored(self, cell: Cell) -> StoredCell:
        """Return the folder of a cell of the study as it is now, which may ask for more."""
        return self.store.cell(cell.id, cell.eval_keep_rates)

    def without(self, cell_ids: Container[str]) -> "Selection":
        """Return this selection but for some of the selected cells."""
        return replace(self, selected=[cell for cell in self.selected if cell.id not in cell_ids])

    def unfinished(self) -> list[Cell]:
        """Return the selected cells that are not done."""
        return [cell for cell in self.selected if self.stored(cell).state() is not CellState.DONE]

    def notes(self) -> list[str]:
        """Return what to tell of cells that nobody has asked for."""
        notes = []
        if self.added:
            notes.append(f"added as teachers, for no grid has them: {_listed(self.added)}")
        if self.pulled_in:
            notes.append(
                f"selected, too, for they have to teach others first: {_listed(self.pulled_in)}"
            )
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
    for stage in options.stages:
        if stage not in STAGES:
            raise not_one_of("--stages", stage, STAGES)
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
    selected = [
        cell
        for cell in cells
        if _matches(cell.id, options.only)
        and not (cell.imported and store.cell(cell.id).state() is CellState.RECORDED)
    ]
    if options.only and not selected:
        raise UserError(f"--only {' '.join(options.only)} matches none of the {len(cells)} cells")
    return with_teachers(
        Selection(study, cells, selected, store, added=added_teachers(study)), options
    )


def storage_path(text: str) -> StorePath:
    """Return the place that a folder or a URI names.

    Raises:
        UserError: It is no URI that a store can have, or nothing answers there.
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
    """Return the selection with the untrained teachers of its untrained cells, if it trains."""
    if "train" not in options.stages:
        return selection
    store = selection.store
    asked_for = selection.without({cell.id for cell in selection.pulled_in}).selected
    waited_for = {waits_for(store, cell) for cell in asked_for} - {None}
    pulled_in = waited_for - {cell.id for cell in asked_for}
    taken = pulled_in | {cell.id for cell in asked_for}
    return replace(
        selection,
        selected=[cell for cell in selection.cells if cell.id in taken],
        pulled_in=[cell for cell in selection.cells if cell.id in pulled_in],
    )


def _listed(cells: Iterable[Cell]) -> str:
    return ", ".join(cell.id for cell in cells)


def _matches(cell_id: str, globs: Iterable[str]) -> bool:
    globs = list(globs)
    return not globs or any(fnmatch(cell_id, glob) for glob in globs)
