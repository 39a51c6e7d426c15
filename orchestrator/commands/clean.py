"""`tokensweep clean`: list what can be removed, ask, remove it, and report what that freed."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from orchestrator.console import line
from orchestrator.errors import UserError
from orchestrator.store.disk_use import OTHER, StoredFile, files_below, stored_file
from orchestrator.store.driver_lock import driving
from orchestrator.store.searches import read_searches
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from trainables.data.stale import Unused, stale_caches, stale_indices
from trainables.storage import layout
from trainables.storage.files import DamagedFileError
from trainables.storage.paths import StorePath

WRITTEN_WITHIN = 3600.0
"""Seconds after which a temporary file is taken for one that a killed process left."""


@dataclass(frozen=True)
class Removal:
    """Files that are removed together, for one reason."""

    what: str
    reason: str
    files: tuple[StoredFile, ...]
    root: StorePath
    """Folder that is kept even if it ends up empty."""

    @property
    def frees(self) -> int:
        """Bytes that the disk gets back."""
        return sum(file.frees for file in self.files)


class Cleaning:
    """Plans what to remove from one study, which nobody may run meanwhile.

    Attributes:
        unknown: Paths below the study's folder of files and links that tokensweep did not write.
            Their folders are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of_cells: dict[str, list[StoredFile]] = {}
        self._others: list[StoredFile] = []
        for file in files_below(store.path):
            if file.cell_id is None:
                self._others.append(file)
            else:
                self._of_cells.setdefault(file.cell_id, []).append(file)
        self.unknown: list[str] = []

    def failed(self) -> Iterator[Removal]:
        """Yield what keeps failed cells from starting over; finished training is kept."""
        for cell_id, files in self._of_cells.items():
            stored = self._store.cell(cell_id)
            if stored.state() is not CellState.FAILED:
                continue
            trained = stored.is_trained()
            if trained:
                errors = [file for file in files if file.known is layout.ERROR]
                yield self._of_cell(cell_id, "its evaluation failed", errors)
            else:
                made = [file for file in files if file.known is not layout.CELL]
                yield self._of_cell(cell_id, "failed", made)

    def keep_best(self) -> Iterator[Removal]:
        """Yield the resume states of trained cells, and Tune's files."""
        for cell_id, files in self._of_cells.items():
            states = [file for file in files if file.kind == "states"]
            if states and self._store.cell(cell_id).is_trained():
                yield self._of_cell(cell_id, "states of a trained cell", states)
        yield from self.launches()

    def orphans(self) -> Iterator[Removal]:
        """Yield cells that the study no longer has, temporary files, and Tune's files."""
        apart = {cell for search in read_searches(self._store) for cell in search.all_cells}
        listed = apart | set(self._store.read_study()["cells"])
        for cell_id, files in self._of_cells.items():
            if cell_id in listed:
                continue
            if self._is_cell(cell_id):
                state = self._store.cell(cell_id).state()
                yield self._of_cell(cell_id, f"{state}, no longer in the study", files)
            else:
                self.unknown.append(f"cells/{cell_id}")
        for file in self._others:
            if file.kind == "comparisons" and file.path.stem not in listed:
                reason = "about a cell that is no longer in the study"
                yield Removal(file.name, reason, (file,), self._store.path)
        of_listed = (self._of_cells.get(cell_id, []) for cell_id in listed)
        for file in chain(self._others, *of_listed):
            if file.kind == "left over" and file.age > WRITTEN_WITHIN:
                yield Removal(file.name, "left by a killed process", (file,), self._store.path)
        yield from self.launches()

    def launches(self) -> Iterator[Removal]:
        """Yield the files that Tune left of each launch; nothing reads them."""
        launches: dict[str, list[StoredFile]] = {}
        for file in self._others:
            if file.kind == "Tune":
                launches.setdefault("/".join(file.name.split("/")[:2]), []).append(file)
        for name, files in launches.items():
            yield Removal(name, "files of Ray Tune", tuple(files), self._store.path)

    def _of_cell(self, cell_id: str, reason: str, files: Iterable[StoredFile]) -> Removal:
        files = list(files)
        self.unknown += [file.name for file in files if file.kind == OTHER]
        known = [file for file in files if file.kind != OTHER]
        known.sort(key=lambda file: not file.vouches)
        return Removal(cell_id, reason, tuple(known), self._store.path)

    def _is_cell(self, cell_id: str) -> bool:
        try:
            return self._store.cell(cell_id).cell().id == cell_id
        except DamagedFileError:
            return False


def remove(removal: Removal) -> None:
    """Remove files in their order, then the folders below `root` that this has emptied."""
    for file in removal.files:
        file.path.unlink(missing_ok=True)
    for file in removal.files:
        if isinstance(file.path, Path) and isinstance(removal.root, Path):
            _remove_empty(file.path.parent, removal.root)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder and its parents below `root`, as long as they are empty."""
    with suppress(OSError):  # It is not empty, or is gone already.
        while folder != root:
            folder.rmdir()
            folder = folder.parent


REMOVALS_SHOWN = 30


@dataclass(frozen=True)
class CleanOptions:
    """The options of `clean`."""

    failed: bool
    orphans: bool
    keep_best: bool


def clean_study(store: Store, wanted: CleanOptions, console: Console, *, yes: bool) -> None:
    """Remove what the options name, once the user has confirmed it.

    Raises:
        UserError: The study is running, no option is given, or there is no terminal to ask on.
    """
    if not (wanted.failed or wanted.orphans or wanted.keep_best):
        raise UserError("clean needs at least one of --failed, --orphans and --keep-best")

    say = partial(line, console)
    with driving(store.path, say, lambda holder: None):
        cleaning = Cleaning(store)
        plan = list(_distinct(_plan(store, cleaning, wanted)))
        if plan:
            console.print(_table(plan))
        for name in cleaning.unknown:
            say(f"left alone because tokensweep did not write it: {name}")
        if not plan:
            say("nothing to remove")
        elif _confirmed(plan, yes):
            for removal in plan:
                remove(removal)
            say(f"removed {_amount(plan)}")
        else:
            say("nothing was removed")


def _plan(store: Store, cleaning: Cleaning, wanted: CleanOptions) -> Iterator[Removal]:
    if wanted.failed:
        yield from cleaning.failed()
    if wanted.orphans:
        yield from cleaning.orphans()
        yield from map(_beside_the_study, stale_indices(store.datasets))
        yield from map(_beside_the_study, stale_caches())
    if wanted.keep_best:
        yield from cleaning.keep_best()


def _beside_the_study(stale: Unused) -> Removal:
    files = tuple(stored_file(file) for file in stale.files if file.exists())
    return Removal(str(stale.path), stale.reason, files, stale.path.parent)


def _distinct(removals: Iterable[Removal]) -> Iterator[Removal]:
    """Yield the removals, each file only in the first one that names it."""
    seen: set[object] = set()
    for removal in removals:
        files = tuple(file for file in removal.files if file.path not in seen)
        seen.update(file.path for file in files)
        if files:
            yield replace(removal, files=files)


def _table(plan: list[Removal]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for removal in plan[:REMOVALS_SHOWN]:
        amount = f"{len(removal.files)} files, {decimal(removal.frees)}"
        table.add_row(removal.what, removal.reason, amount)
    if len(plan) > REMOVALS_SHOWN:
        table.add_row(f"and {len(plan) - REMOVALS_SHOWN} more", "", "")
    return table


def _amount(plan: list[Removal]) -> str:
    files = sum(len(removal.files) for removal in plan)
    return f"{files} files, which frees {decimal(sum(removal.frees for removal in plan))}"


def _confirmed(plan: list[Removal], yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(
            f"nothing was removed: there is no terminal to ask on; with --yes, clean removes "
            f"{_amount(plan)}"
        )
    return typer.confirm(f"remove {_amount(plan)}?")
