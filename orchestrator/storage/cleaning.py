"""What `tokensweep clean` may remove of a study, and the removing.

Only files that tokensweep is known to write are ever removed. Links are neither followed nor
removed, and a folder only goes once nothing is left in it.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from orchestrator.storage.disk_use import OTHER, StoredFile, files_below
from orchestrator.storage.store import CellState, Store
from trainables.files import DamagedFileError
from trainables.store_path import StorePath

WRITTEN_WITHIN = 3600.0
"""A file written aside is left over once it is older than this, in seconds."""
VOUCHING = ("result.json", "eval.json", "meta.json")
"""Records that go before the files they vouch for, lest they outlive those."""


@dataclass(frozen=True)
class Removal:
    """Files that belong together and go for one reason."""

    what: str
    reason: str
    files: tuple[StoredFile, ...]
    root: StorePath
    """Folder that stays, even if nothing is left in it."""

    @property
    def frees(self) -> int:
        """Bytes that the disk gets back."""
        return sum(file.frees for file in self.files)


class Cleaning:
    """Plans what to remove of one study; the study must not be run meanwhile.

    Attributes:
        unknown: Names of files and links, below the study's folder, in folders that would go but
            for them.
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
        """Yield what keeps failed cells from beginning anew; what is trained stays so."""
        for cell_id, files in self._of_cells.items():
            stored = self._store.cell(cell_id)
            if stored.state() is not CellState.FAILED:
                continue
            trained = stored.is_trained()
            names = {"error.txt"} if trained else None
            reason = "its evaluation failed" if trained else "failed"
            yield self._of_cell(cell_id, reason, _all_but("cell.json", files, only=names))

    def keep_best(self) -> Iterator[Removal]:
        """Yield what trained cells would need only to be trained further, and Tune's traces."""
        for cell_id, files in self._of_cells.items():
            states = [file for file in files if file.kind == "states"]
            if states and self._store.cell(cell_id).is_trained():
                yield self._of_cell(cell_id, "states of a trained cell", states)
        yield from self.launches()

    def orphans(self) -> Iterator[Removal]:
        """Yield cells that the study no longer has, what writers left over, and Tune's traces."""
        listed = set(self._store.read_study()["cells"])
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
                reason = "of a cell that is no longer in the study"
                yield Removal(file.name, reason, (file,), self._store.path)
        of_listed = (self._of_cells.get(cell_id, []) for cell_id in listed)
        for file in chain(self._others, *of_listed):
            if file.kind == "left over" and file.age > WRITTEN_WITHIN:
                yield Removal(file.name, "left over by a writer", (file,), self._store.path)
        yield from self.launches()

    def launches(self) -> Iterator[Removal]:
        """Yield what Tune left of each launch; nothing reads it."""
        launches: dict[str, list[StoredFile]] = {}
        for file in self._others:
            if file.kind == "Tune":
                launches.setdefault("/".join(file.name.split("/")[:2]), []).append(file)
        for name, files in launches.items():
            yield Removal(name, "traces of a launch", tuple(files), self._store.path)

    def _of_cell(self, cell_id: str, reason: str, files: Iterable[StoredFile]) -> Removal:
        files = list(files)
        self.unknown += [file.name for file in files if file.kind == OTHER]
        known = [file for file in files if file.kind != OTHER]
        known.sort(key=lambda file: file.path.name not in VOUCHING)
        return Removal(cell_id, reason, tuple(known), self._store.path)

    def _is_cell(self, cell_id: str) -> bool:
        try:
            return self._store.cell(cell_id).cell().id == cell_id
        except DamagedFileError:
            return False


def remove(removal: Removal) -> None:
    """Remove files, in order, and the folders below `root` that are empty then."""
    for file in removal.files:
        file.path.unlink(missing_ok=True)
    for file in removal.files:
        if isinstance(file.path, Path) and isinstance(removal.root, Path):
            _remove_empty(file.path.parent, removal.root)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder, and those around it below `root`, as far as they are empty."""
    with suppress(OSError):  # Something is left in it, or it has gone already.
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _all_but(
    kept: str, files: Iterable[StoredFile], only: set[str] | None = None
) -> list[StoredFile]:
    return [
        file
        for file in files
        if file.path.name != kept and (only is None or file.path.name in only)
    ]
