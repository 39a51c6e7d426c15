"""The files that training writes to a cell's folder in the store.

`trainables.storage.layout` lists them. Each is checked against its SHA-256 or its seal before it is
used.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import cast

from trainables.cell.cell import Cell
from trainables.cell.json_records import (
    Attempt,
    AttemptsRecord,
    BestRecord,
    Rung,
    RungsRecord,
    TrainingResult,
)
from trainables.storage import layout
from trainables.storage.files import (
    Check,
    DamagedFileError,
    append_line,
    digest,
    read_checked,
    read_sealed_json,
    remove_tree,
    write_sealed_json,
)
from trainables.storage.paths import StorePath
from trainables.storage.sealed import SealedFiles

STATES_KEPT = 2
"""The newest resume state and the one before it, in case the newest turns out damaged."""


RUNG = "rung"
"""Event in the log of a trial that successive halving has decided about."""


class CellFolder:
    """Reads and writes the files of one cell's training."""

    def __init__(self, path: StorePath) -> None:
        self.path = path

    def cell(self) -> Cell:
        """Return the folder's cell.

        Raises:
            DamagedFileError: `cell.json` is missing or damaged.
        """
        path = layout.CELL.below(self.path)
        try:
            document = json.loads(path.read_bytes())
            # Cells from before there was a choice have no such field.
            document["recipe"].setdefault("embeddings", "head")
            return Cell.model_validate_json(json.dumps(document))
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedFileError(path, "it is missing or holds no cell") from error

    @property
    def best(self) -> SealedFiles:
        """The best weights so far (safetensors), and the record that vouches for them."""
        return _one_file(self.path, layout.BEST.name(), layout.BEST_RECORD.name())

    def _state(self, step: int) -> SealedFiles:
        name, record = layout.STATE.name(step=step), layout.STATE_RECORD.name(step=step)
        return _one_file(self.path, name, record)

    def save_last(self, step: int, state: bytes) -> None:
        """Publish a resume state, then remove all but the newest `STATES_KEPT`."""
        files = self._state(step)
        # The record goes first here: a state without one would look damaged after a kill.
        files.seal({"sha256": digest(state)})
        files.write({layout.STATE.name(step=step): state})
        for old in self._steps()[STATES_KEPT:]:
            self._state(old).discard()

    def load_last(self) -> bytes | None:
        """Return the newest resume state that is whole, None if there is none."""
        for step in self._steps():
            try:
                return self._state(step).read(layout.STATE.name(step=step))
            except DamagedFileError:
                continue
        return None

    def saved_step(self) -> int:
        """Return the optimiser step of the newest resume state, 0 if there is none."""
        return next(iter(self._steps()), 0)

    def discard_states(self, from_step: int = 0) -> None:
        """Remove the resume states after `from_step` optimiser steps or more."""
        for step in self._steps():
            if step >= from_step:
                self._state(step).discard()

    def damaged_states(self, check: Check = read_checked) -> list[DamagedFileError]:
        """Remove the resume states that are damaged; return what was wrong with them."""
        damaged = []
        for step in self._steps():
            try:
                self._state(step).check(check)
            except DamagedFileError as error:
                damaged.append(error)
                self._state(step).discard()
        return damaged

    def save_best(self, weights: bytes, meta: BestRecord) -> None:
        """Publish the best weights so far (safetensors), then the record that vouches for them."""
        digests = self.best.write({layout.BEST.name(): weights})
        self.best.seal({**meta, "sha256": digests[layout.BEST.name()]})

    def load_best(self) -> bytes:
        """Return the best weights.

        Raises:
            DamagedFileError: The weights or their record are missing or damaged.
        """
        return self.best.read(layout.BEST.name())

    def best_meta(self) -> BestRecord | None:
        """Return the record of the best weights so far, None if it is missing or damaged."""
        try:
            record = self.best.read_record()
        except DamagedFileError:
            return None
        if record is None:
            return None
        return cast(BestRecord, {k: value for k, value in record.items() if k != "sha256"})

    def attempts(self) -> list[Attempt]:
        """Return the attempts that ended on a number that is not finite, in their order.

        Raises:
            DamagedFileError: Their record is damaged.
        """
        file = layout.ATTEMPTS.below(self.path)
        record = cast(AttemptsRecord | None, read_sealed_json(file))
        return record["attempts"] if record else []

    def add_attempt(self, attempt: Attempt) -> None:
        """Record an attempt that ended, in `attempts.json` and in the log."""
        attempts = [*self.attempts(), attempt]
        write_sealed_json(layout.ATTEMPTS.below(self.path), {"attempts": attempts})
        self.append_log({"event": "not finite", **attempt})

    def rungs(self) -> list[Rung]:
        """Return the decisions of successive halving about the cell, in their order.

        Raises:
            DamagedFileError: Their record is damaged.
        """
        record = cast(RungsRecord | None, read_sealed_json(layout.RUNGS.below(self.path)))
        return record["rungs"] if record else []

    def add_rung(self, rung: Rung) -> None:
        """Record a decision of successive halving, in `rungs.json` and in the log."""
        self.write_rungs([*self.rungs(), rung])
        self.log_rung(rung)

    def write_rungs(self, rungs: Sequence[Rung]) -> None:
        """Write `rungs.json`."""
        write_sealed_json(layout.RUNGS.below(self.path), {"rungs": list(rungs)})

    def log_rung(self, rung: Rung) -> None:
        """Add a decision of successive halving to the log."""
        self.append_log({"event": RUNG, **rung})

    def append_log(self, report: Mapping[str, object]) -> None:
        """Add one line to `log.jsonl`, stamped with the time in seconds since the epoch."""
        append_line(layout.LOG.below(self.path), json.dumps({"time": time.time(), **report}))

    def write_result(self, result: TrainingResult) -> None:
        """Declare the cell trained, if its best weights are whole.

        Raises:
            DamagedFileError: They are not. The training is discarded and has to start over.
        """
        try:
            self.load_best()
        except DamagedFileError:
            self.discard_training()
            raise
        write_sealed_json(layout.RESULT.below(self.path), result)

    def discard_training(self) -> None:
        """Remove all files of the training, `result.json` first."""
        layout.RESULT.below(self.path).unlink(missing_ok=True)
        for made in (layout.STATE, layout.BEST):
            remove_tree(self.path / made.folder)
        # Last, because a state must not outlive the record of its fallback recipe.
        layout.ATTEMPTS.below(self.path).unlink(missing_ok=True)

    def _steps(self) -> list[int]:
        """Return the optimiser steps of the resume states, the newest first."""
        names = (path.stem.removeprefix("state-") for path in layout.STATE.found(self.path))
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _one_file(folder: StorePath, name: str, record: str) -> SealedFiles:
    """Return a file and the record that has its SHA-256 as `sha256`."""
    return SealedFiles(folder, record, (name,), lambda fields: {name: fields["sha256"]})
