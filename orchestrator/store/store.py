"""The store: what a study has reached, as files under STORAGE/STUDY.

The files are the truth. A cell is trained when `result.json` and the best weights are whole, and
done when `eval.json` and the artifacts it vouches for are whole too. Whatever is torn or damaged
is removed by `repair`, which names it, and is made again.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Required, TypedDict, cast

import yaml

from orchestrator.errors import UserError
from orchestrator.store.driver_lock import driver_of
from orchestrator.store.stored_cell import StoredCell
from trainables.cell.cell import NAME, Cell, is_trial
from trainables.data.cache_file import cache_folder
from trainables.storage import layout
from trainables.storage.files import (
    DamagedFileError,
    write_atomic,
)
from trainables.storage.paths import StorePath


class StudyRecord(TypedDict, total=False):
    """`study.yaml`: a study as its schema dumps it, with its cells and its provenance."""

    name: Required[str]
    cells: Required[list[str]]
    """Their ids, in the study's order."""
    versions: dict[str, str]
    """Of Python and of packages."""
    git_commit: str | None


class Store:
    """One study's folder."""

    def __init__(self, path: StorePath) -> None:
        self.path = path

    @property
    def stop_file(self) -> StorePath:
        """While this file exists, running cells of the launch of this process save and end."""
        return layout.STOP.below(self.path, process=f"{os.uname().nodename}-{os.getpid()}")

    @property
    def datasets(self) -> Path:
        """The folder of the indices of datasets, which all studies of a storage share.

        That of an object store is the node's own: indices are looked at too often.
        """
        storage = self.path.parent
        place = storage if isinstance(storage, Path) else cache_folder()
        return place / layout.DATASET_INDEX.folder

    @property
    def calibrations(self) -> StorePath:
        """The folder of what cells were measured to take, which all studies of a storage share."""
        return self.path.parent / layout.CALIBRATION.folder

    @property
    def measurements(self) -> StorePath:
        """The folder of how fast models were measured to be, which all studies share likewise."""
        return self.path.parent / layout.SPEED.folder

    @property
    def measured(self) -> StorePath:
        """Record of what the speed of this study's cells was measured for."""
        return layout.MEASURED.below(self.path)

    @property
    def tables(self) -> StorePath:
        """Folder of the Parquet tables."""
        return self.path / layout.TABLE.folder

    @property
    def comparisons(self) -> StorePath:
        """Folder of what comparing cells has found so far."""
        return self.path / layout.COMPARISON.folder

    @property
    def comparison_error(self) -> StorePath:
        """Where the whole error stands if comparing failed the last time."""
        return layout.COMPARISON_ERROR.below(self.path)

    @property
    def samples(self) -> StorePath:
        """Folder of the chosen images, with what cells made of them."""
        return self.path / layout.SAMPLE.folder

    @property
    def report(self) -> StorePath:
        """The study's page."""
        return layout.PAGE.below(self.path)

    @property
    def figures(self) -> StorePath:
        """Folder of the page's figures as files."""
        return self.path / layout.FIGURE_PNG.folder

    def cell(self, cell_id: str, eval_keep_rates: tuple[float, ...] | None = None) -> StoredCell:
        """Return the folder of one cell, whether it exists yet or not.

        `eval_keep_rates` are those that the cell now has, None those that it was stored with.
        """
        return StoredCell(layout.cell_folder(self.path, cell_id), eval_keep_rates)

    def cell_ids(self) -> list[str]:
        """Return the ids of the study's cells in its order, then of other cells, sorted.

        Trials are none of them.
        """
        found = (cell_id for cell_id in self.found_ids() if not is_trial(cell_id))
        return [*dict.fromkeys([*self.read_study()["cells"], *found])]

    def trial_ids(self) -> list[str]:
        """Return the ids of all trials that have a folder, sorted."""
        return list(filter(is_trial, self.found_ids()))

    def found_ids(self) -> list[str]:
        """Return the ids of all cells that have a folder, sorted."""
        return sorted(path.parent.name for path in layout.of_all_cells(self.path, layout.CELL))

    def imported_cells(self) -> list[Cell]:
        """Return the cells that were imported into this study, sorted by id.

        Raises:
            UserError: The record of one is damaged.
        """
        try:
            found = sorted(p.parent.name for p in layout.of_all_cells(self.path, layout.IMPORT))
            return [self.cell(name).cell() for name in found if self.cell(name).imported()]
        except DamagedFileError as error:
            raise UserError(f"{error}; import it again to replace it") from error

    def list_cells(self, cell_ids: Iterable[str]) -> None:
        """Have `study.yaml` list further cells."""
        study = self.read_study()
        cells = list(dict.fromkeys([*study["cells"], *cell_ids]))
        self._write({**study, "cells": cells})

    def create(
        self, document: Mapping[str, object], cells: Sequence[Cell], trials: Sequence[Cell] = ()
    ) -> None:
        """Write `study.yaml`, which lists the cells, and every cell's and trial's `cell.json`."""
        for cell in (*cells, *trials):
            self.cell(cell.id).describe(cell)
        self._write({**document, "cells": [cell.id for cell in cells]})

    def _write(self, document: Mapping[str, object]) -> None:
        text = yaml.dump(dict(document), Dumper=yaml.CSafeDumper, sort_keys=False)
        write_atomic(layout.STUDY.below(self.path), text.encode())

    def read_study(self) -> StudyRecord:
        """Return the resolved study as `create` wrote it."""
        path = layout.STUDY.below(self.path)
        try:
            document = yaml.load(path.read_text(), yaml.CSafeLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DamagedFileError(path, "it is not valid YAML") from error
        if not isinstance(document, dict) or not {"name", "cells"} <= set(document):
            raise DamagedFileError(path, "it does not say what the study is")
        for name in document["cells"]:
            if not re.fullmatch(NAME, str(name)):
                raise DamagedFileError(path, f"{name!r} is no id of a cell")
        return cast(StudyRecord, document)

    def driver(self) -> str | None:
        """Return who runs the study now, None if nobody does."""
        return driver_of(self.path)


def waits_for(store: Store, cell: Cell) -> str | None:
    """Return the id of the cell that has to be trained before this one can be, if any."""
    if cell.prerequisite is None or store.cell(cell.id).is_trained():
        return None
    return None if store.cell(cell.prerequisite).is_trained() else cell.prerequisite


def find_study(storage: StorePath) -> Store:
    """Return the store in `storage`, which is a study's folder or holds exactly one.

    Raises:
        UserError: There is none, or more than one.
    """
    if layout.STUDY.below(storage).is_file():
        return Store(storage)
    found = layout.studies(storage)
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "no study"
        raise UserError(f"{storage} holds {names}; give the folder of one study")
    return Store(found[0])
