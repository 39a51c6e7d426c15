"""The store: what a study has reached, as files under STORAGE/STUDY.

The files are the truth. A cell is trained when `result.json` and the best weights are whole, and
done when `eval.json` and the artifacts it vouches for are whole too. Whatever is torn or damaged
is removed by `repair`, which names it, and is made again.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import UserError
from orchestrator.storage.driver_lock import driver_of
from orchestrator.storage.evaluation_folder import EvaluationFolder
from orchestrator.training.attempts import changes_in_words
from trainables.cell import NAME, Cell
from trainables.cell_folder import CellFolder
from trainables.data.cache_file import cache_folder
from trainables.files import (
    Check,
    DamagedFileError,
    digest,
    read_checked,
    read_sealed_json,
    write_atomic,
    write_sealed_json,
)
from trainables.gentler import changes_after
from trainables.store_path import StorePath

IMPORT = "import.json"

_COLORS = re.compile(r"\x1b\[[0-9;]*m")
"""Ray colours the traces of its tasks."""


class CellState(StrEnum):
    """How far a cell is, as its files tell."""

    PENDING = "pending"
    INTERRUPTED = "interrupted"
    """Training has begun and can go on from a saved state."""
    TRAINED = "trained"
    RECORDED = "recorded"
    """Imported without weights: what it reached is known, and there is nothing to evaluate."""
    DONE = "done"
    FAILED = "failed"
    DAMAGED = "damaged"
    """A record of the cell cannot be trusted; the next launch repairs it."""


class Store:
    """One study's folder."""

    def __init__(self, path: StorePath) -> None:
        self.path = path

    @property
    def stop_file(self) -> StorePath:
        """While this file exists, running cells of the launch of this process save and end."""
        return self.path / f"stop-{os.uname().nodename}-{os.getpid()}"

    @property
    def datasets(self) -> Path:
        """The folder of the indices of datasets, which all studies of a storage share.

        That of an object store is the node's own: indices are looked at too often.
        """
        storage = self.path.parent
        return storage / "datasets" if isinstance(storage, Path) else cache_folder() / "datasets"

    @property
    def calibrations(self) -> StorePath:
        """The folder of what cells were measured to take, which all studies of a storage share."""
        return self.path.parent / "calibration"

    @property
    def tables(self) -> StorePath:
        """Folder of the Parquet tables."""
        return self.path / "tables"

    @property
    def comparisons(self) -> StorePath:
        """Folder of what comparing cells has found so far."""
        return self.path / "comparisons"

    @property
    def comparison_error(self) -> StorePath:
        """Where the whole error stands if comparing failed the last time."""
        return self.comparisons / "error.txt"

    @property
    def samples(self) -> StorePath:
        """Folder of the chosen images, with what cells made of them."""
        return self.path / "samples"

    @property
    def report(self) -> StorePath:
        """The study's page."""
        return self.path / "report" / "index.html"

    @property
    def figures(self) -> StorePath:
        """Folder of the page's figures as files."""
        return self.path / "figures"

    def cell(self, cell_id: str, eval_keep_rates: tuple[float, ...] | None = None) -> "StoredCell":
        """Return the folder of one cell, whether it exists yet or not.

        `eval_keep_rates` are those that the cell now has, None those that it was stored with.
        """
        return StoredCell(self.path / "cells" / cell_id, eval_keep_rates)

    def cell_ids(self) -> list[str]:
        """Return the ids of the study's cells in its order, then of other cells, sorted."""
        return [*dict.fromkeys([*self.read_study()["cells"], *self.found_ids()])]

    def found_ids(self) -> list[str]:
        """Return the ids of all cells that have a folder, sorted."""
        return sorted(path.parent.name for path in self.path.glob("cells/*/cell.json"))

    def imported_cells(self) -> list[Cell]:
        """Return the cells that were imported into this study, sorted by id.

        Raises:
            UserError: The record of one is damaged.
        """
        try:
            found = sorted(path.parent.name for path in self.path.glob(f"cells/*/{IMPORT}"))
            return [self.cell(name).cell() for name in found if self.cell(name).imported()]
        except DamagedFileError as error:
            raise UserError(f"{error}; import it again, which mends it") from error

    def list_cells(self, cell_ids: Iterable[str]) -> None:
        """Have `study.yaml` list further cells."""
        document = self.read_study()
        document["cells"] = list(dict.fromkeys([*document["cells"], *cell_ids]))
        self._write(document)

    def create(self, document: Mapping[str, Any], cells: Sequence[Cell]) -> None:
        """Write `study.yaml`, which lists the cells, and every cell's `cell.json`."""
        for cell in cells:
            self.cell(cell.id).describe(cell)
        self._write({**document, "cells": [cell.id for cell in cells]})

    def _write(self, document: Mapping[str, Any]) -> None:
        text = yaml.dump(dict(document), Dumper=yaml.CSafeDumper, sort_keys=False)
        write_atomic(self.path / "study.yaml", text.encode())

    def read_study(self) -> dict[str, Any]:
        """Return the resolved study as `create` wrote it."""
        path = self.path / "study.yaml"
        try:
            document = yaml.load(path.read_text(), yaml.CSafeLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DamagedFileError(path, "it is not valid YAML") from error
        if not isinstance(document, dict) or not {"name", "cells"} <= set(document):
            raise DamagedFileError(path, "it does not say what the study is")
        for name in document["cells"]:
            if not re.fullmatch(NAME, str(name)):
                raise DamagedFileError(path, f"{name!r} is no id of a cell")
        return document

    def driver(self) -> str | None:
        """Return who runs the study now, None if nobody does."""
        return driver_of(self.path)


class StoredCell(CellFolder):
    """One cell's folder, as the orchestrator reads and completes it."""

    def __init__(self, path: StorePath, eval_keep_rates: tuple[float, ...] | None = None) -> None:
        super().__init__(path)
        self._eval_keep_rates = eval_keep_rates

    @property
    def id(self) -> str:
        """The cell's id is its folder's name."""
        return self.path.name

    def describe(self, cell: Cell) -> None:
        """Write `cell.json`, or write it again if it was damaged."""
        path = self.path / "cell.json"
        data = (cell.model_dump_json(indent=1) + "\n").encode()
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)

    def state(self) -> CellState:
        """Tell how far the cell is; sealed records are checked, big files are not read."""
        try:
            trained = self.result() is not None
            evaluated = all(f.metrics() is not None for f in self.evaluations().values())
            self.attempts()
        except DamagedFileError:
            return CellState.DAMAGED
        if trained and evaluated:
            return CellState.DONE
        if self.error():
            return CellState.FAILED
        if trained:
            return CellState.TRAINED
        if (self.path / IMPORT).exists():
            return CellState.RECORDED
        return CellState.INTERRUPTED if any(self.path.glob("last/*")) else CellState.PENDING

    def is_trained(self) -> bool:
        """Tell whether training is finished, as far as its sealed record tells."""
        try:
            return self.result() is not None
        except DamagedFileError:
            return False

    def imported(self) -> dict[str, Any] | None:
        """Return what is known of the W&B run that the cell is from, None if it is from none.

        Raises:
            DamagedFileError: The record is damaged.
        """
        return read_sealed_json(self.path / IMPORT)

    def write_import(self, record: dict[str, Any]) -> None:
        """Record the W&B run that the cell is from, as `published_runs.Run` knows it."""
        write_sealed_json(self.path / IMPORT, record)

    def result(self) -> dict[str, Any] | None:
        """Return `result.json`, None while the cell is not trained."""
        return read_sealed_json(self.path / "result.json")

    @property
    def eval_keep_rates(self) -> tuple[float, ...]:
        """Keep rates other than the cell's own that its weights are evaluated at."""
        if self._eval_keep_rates is None:
            known = (self.path / "cell.json").exists()
            self._eval_keep_rates = self.cell().eval_keep_rates if known else ()
        return self._eval_keep_rates

    def evaluations(self) -> dict[float | None, EvaluationFolder]:
        """Return the evaluations to make by keep rate; None stands for the cell's own."""
        others = {rate: self.path / f"at-r{rate:g}" for rate in self.eval_keep_rates}
        return {rate: EvaluationFolder(path) for rate, path in ({None: self.path} | others).items()}

    def evaluation(self) -> dict[str, Any] | None:
        """Return the metrics at the cell's own keep rate, None while it is not evaluated."""
        return EvaluationFolder(self.path).metrics()

    def evaluation_digest(self) -> str:
        """Return what identifies the evaluations' metrics and artifacts."""
        digests = [folder.digest() for folder in self.evaluations().values()]
        return digests[0] if len(digests) == 1 else digest("".join(digests).encode())

    def read_artifact(self, name: str) -> bytes:
        """Return an artifact of the evaluation at the cell's own keep rate.

        Raises:
            DamagedFileError: It is missing, damaged, or was never made.
        """
        return EvaluationFolder(self.path).read_artifact(name)

    @property
    def error_file(self) -> StorePath:
        """Where the whole error of a failed cell stands."""
        return self.path / "error.txt"

    def error(self) -> str | None:
        """Return why the cell failed, None if it did not."""
        return self.error_file.read_text() if self.error_file.exists() else None

    def reason(self) -> str:
        """Return the last line of what went wrong."""
        return (self.error() or "").strip().splitlines()[-1]

    def gentler(self) -> str | None:
        """Return how the training was or is to be gentler than asked for, None if it is not."""
        try:
            attempts = self.attempts()
        except DamagedFileError:
            return None  # As the state tells.
        if not attempts:
            return None
        return changes_in_words(changes_after(self.cell().recipe, len(attempts))) or None

    def forget_attempts(self) -> None:
        """Begin the training anew, as it was asked for, if attempts at it were not finite."""
        if self.attempts():
            self.discard_training()

    def write_error(self, text: str) -> None:
        """Declare the cell failed."""
        write_atomic(self.error_file, f"{_COLORS.sub('', text.strip())}\n".encode())

    def clear_error(self) -> None:
        """Give the cell another chance."""
        self.error_file.unlink(missing_ok=True)

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of `log.jsonl`; a torn last line is left out."""
        path = self.path / "log.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [entry for line in lines if (entry := _parse(line)) is not None]

    def take_log(self, other: "StoredCell", event: Mapping[str, Any]) -> None:
        """Replace the log with another cell's, and an event that says where it is from."""
        path = other.path / "log.jsonl"
        before = path.read_bytes() if path.exists() else b""
        line = json.dumps({"time": time.time(), **event})
        write_atomic(self.path / "log.jsonl", before + f"{line}\n".encode())

    def last_event(self) -> str | None:
        """Return the newest event of the log that was no report, None if there is none."""
        events = (entry["event"] for entry in reversed(self.log()) if "event" in entry)
        return next(events, None)

    def last_report(self) -> dict[str, Any]:
        """Return the newest report of training, empty if there is none."""
        return next((entry for entry in reversed(self.log()) if "epoch" in entry), {})

    def repair(self, check: Check = read_checked) -> list[DamagedFileError]:
        """Remove what is damaged, together with all that was made from it; return what it was.

        `check` is asked about every big file that a record vouches for.
        """
        damaged = self.damaged_states(check)
        try:
            self.attempts()
            if self.result() is not None:
                self.check_best(check)
        except DamagedFileError as error:
            damaged.append(error)
            self.discard_training()
            self.discard_evaluation()
        errors = [folder.repair(check) for folder in self.evaluations().values()]
        return [*damaged, *filter(None, errors)]

    def discard_evaluation(self) -> None:
        """Remove all that evaluating the cell's weights has made."""
        for path in (self.path, *self.path.glob("at-r*")):
            EvaluationFolder(path).discard()


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
    if (storage / "study.yaml").is_file():
        return Store(storage)
    found = sorted(path.parent for path in storage.glob("*/study.yaml"))
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "no study"
        raise UserError(f"{storage} holds {names}; name the folder of one study")
    return Store(found[0])


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None
