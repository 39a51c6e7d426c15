"""A cell as the store holds it: its training, its evaluations and what went wrong."""

import json
import re
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import cast

from orchestrator.store.evaluation_folder import EvaluationFolder
from trainables.cell.cell import Cell, is_trial
from trainables.cell.cell_folder import RUNG, CellFolder
from trainables.cell.json_records import ImportedRun, Metrics, Rung, TrainingResult
from trainables.cell.not_finite import changes_after, changes_in_words
from trainables.cell.report import LogEntry
from trainables.storage import layout
from trainables.storage.files import (
    Check,
    DamagedFileError,
    digest,
    read_checked,
    read_sealed_json,
    write_atomic,
    write_sealed_json,
)
from trainables.storage.paths import StorePath

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


class StoredCell(CellFolder):
    """One cell's folder, as the orchestrator reads and completes it."""

    def __init__(self, path: StorePath, eval_keep_rates: tuple[float, ...] | None = None) -> None:
        super().__init__(path)
        self._eval_keep_rates = eval_keep_rates

    @property
    def id(self) -> str:
        """The cell's id is its folder's name."""
        return self.path.name

    @property
    def is_trial(self) -> bool:
        """Whether the cell is trained for a choice alone."""
        return is_trial(self.id)

    def describe(self, cell: Cell) -> None:
        """Write `cell.json`, or write it again if it was damaged."""
        path = layout.CELL.below(self.path)
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
        if layout.IMPORT.below(self.path).exists():
            return CellState.RECORDED
        return CellState.INTERRUPTED if any(layout.STATE.found(self.path)) else CellState.PENDING

    def is_trained(self) -> bool:
        """Tell whether training is finished, as far as its sealed record tells."""
        try:
            return self.result() is not None
        except DamagedFileError:
            return False

    def imported(self) -> ImportedRun | None:
        """Return the record of the W&B run that the cell is from, None if it is from none.

        Raises:
            DamagedFileError: The record is damaged.
        """
        return cast(ImportedRun | None, read_sealed_json(layout.IMPORT.below(self.path)))

    def write_import(self, record: ImportedRun) -> None:
        """Record the W&B run that the cell is from."""
        write_sealed_json(layout.IMPORT.below(self.path), record)

    def result(self) -> TrainingResult | None:
        """Return `result.json`, None while the cell is not trained."""
        return cast(TrainingResult | None, read_sealed_json(layout.RESULT.below(self.path)))

    @property
    def eval_keep_rates(self) -> tuple[float, ...]:
        """Keep rates other than the cell's own that its weights are evaluated at."""
        if self._eval_keep_rates is None:
            known = layout.CELL.below(self.path).exists()
            self._eval_keep_rates = self.cell().eval_keep_rates if known else ()
        return self._eval_keep_rates

    def evaluations(self) -> dict[float | None, EvaluationFolder]:
        """Return the evaluations to make by keep rate; None stands for the cell's own.

        A trial is evaluated in no other way than while it trains.
        """
        if self.is_trial:
            return {}
        folders: dict[float | None, StorePath] = {None: self.path}
        for rate in self.eval_keep_rates:
            folders[rate] = self.path / layout.RATE_FOLDER.format(rate=rate)
        return {rate: EvaluationFolder(path) for rate, path in folders.items()}

    def evaluation(self) -> Metrics | None:
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
        return EvaluationFolder(self.path).files.read(name)

    @property
    def error_file(self) -> StorePath:
        """Where the whole error of a failed cell stands."""
        return layout.ERROR.below(self.path)

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
        cell = self.cell().tuned(attempts[-1].get("tuned", {}))
        return changes_in_words(changes_after(cell.recipe, len(attempts))) or None

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

    def log(self) -> list[LogEntry]:
        """Return the lines of `log.jsonl`; a torn last line is left out."""
        path = layout.LOG.below(self.path)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [entry for line in lines if (entry := _parse(line)) is not None]

    def take_log(self, other: "StoredCell", event: Mapping[str, object]) -> None:
        """Replace the log with another cell's, and an event that says where it is from."""
        path = layout.LOG.below(other.path)
        before = path.read_bytes() if path.exists() else b""
        line = json.dumps({"time": time.time(), **event})
        write_atomic(layout.LOG.below(self.path), before + f"{line}\n".encode())

    def last_event(self) -> str | None:
        """Return the newest event of the log that was no report, None if there is none."""
        events = (entry["event"] for entry in reversed(self.log()) if "event" in entry)
        return next(events, None)

    def last_report(self) -> LogEntry:
        """Return the newest report of training, empty if there is none."""
        reports = (e for e in reversed(self.log()) if "epoch" in e and "event" not in e)
        return next(reports, {})

    def mended_rungs(self) -> list[Rung]:
        """Return the decisions of successive halving that `rungs.json` or the log has.

        What a kill or damage has left in one of them alone is added to the other.
        """
        logged = [_rung(entry) for entry in self.log() if entry.get("event") == RUNG]
        try:
            recorded = self.rungs()
        except DamagedFileError:
            recorded = []
        for rung in recorded:
            if rung not in logged:
                self.log_rung(rung)
        if missing := [rung for rung in logged if rung not in recorded]:
            self.write_rungs([*recorded, *missing])
        return [*recorded, *missing]

    def repair(self, check: Check = read_checked) -> list[DamagedFileError]:
        """Remove what is damaged, together with all that was made from it; return what it was.

        `check` is asked about every big file that a record vouches for.
        """
        damaged = self.damaged_states(check)
        try:
            self.attempts()
            if self.result() is not None:
                self.best.check(check)
        except DamagedFileError as error:
            damaged.append(error)
            self.discard_training()
            self.discard_evaluation()
        errors = [folder.files.repair(check) for folder in self.evaluations().values()]
        return [*damaged, *filter(None, errors)]

    def discard_evaluation(self) -> None:
        """Remove all that evaluating the cell's weights has made."""
        for path in (self.path, *self.path.glob(layout.RATE_FOLDERS)):
            EvaluationFolder(path).files.discard()


def _rung(entry: LogEntry) -> Rung:
    return cast(Rung, {name: entry[name] for name in Rung.__annotations__})


def _parse(line: str) -> LogEntry | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None
