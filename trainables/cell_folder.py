"""A cell's folder in the store, as far as training writes it.

    CELL_ID/cell.json     the cell, written before anything else
            log.jsonl     one line a report
            last/         resume state: state-STEP.pt and its sealed state-STEP.json
            best/         model.safetensors and its sealed meta.json
            attempts.json sealed: attempts that ended on a number that is not finite, if any did
            result.json   sealed, written last: the cell is trained
            error.txt     why the cell failed, if it did

Nothing is trusted before its SHA-256 or seal was checked.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from trainables.cell import Cell
from trainables.files import (
    Check,
    DamagedFileError,
    append_line,
    digest,
    read_checked,
    read_sealed_json,
    remove_tree,
    write_atomic,
    write_sealed_json,
)
from trainables.store_path import StorePath

STATES_KEPT = 2
"""The newest resume state and the one before it, in case the newest turns out damaged."""


class CellFolder:
    """Reads and writes what training leaves of one cell."""

    def __init__(self, path: StorePath) -> None:
        self.path = path

    def cell(self) -> Cell:
        """Return the cell that this folder is about.

        Raises:
            DamagedFileError: `cell.json` is missing or damaged.
        """
        path = self.path / "cell.json"
        try:
            return Cell.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError) as error:
            raise DamagedFileError(path, "it is missing or holds no cell") from error

    def save_last(self, step: int, state: bytes) -> None:
        """Publish a resume state; older ones beyond `STATES_KEPT` are removed after it."""
        name = f"state-{step:08d}"
        write_sealed_json(self.path / "last" / f"{name}.json", {"sha256": digest(state)})
        write_atomic(self.path / "last" / f"{name}.pt", state)
        for old in self._steps()[STATES_KEPT:]:
            self._remove_state(old)

    def load_last(self) -> bytes | None:
        """Return the newest resume state that is whole, None where there is none."""
        for step in self._steps():
            try:
                return read_checked(*self._vouched_state(step))
            except DamagedFileError:
                continue
        return None

    def discard_states(self, from_step: int = 0) -> None:
        """Remove the resume states of `from_step` optimiser steps and more."""
        for name in self._steps():
            if int(name.removeprefix("state-")) >= from_step:
                self._remove_state(name)

    def damaged_states(self, check: Check = read_checked) -> list[DamagedFileError]:
        """Remove the resume states that are damaged; return what they were."""
        damaged = []
        for step in self._steps():
            try:
                check(*self._vouched_state(step))
            except DamagedFileError as error:
                damaged.append(error)
                self._remove_state(step)
        return damaged

    def save_best(self, weights: bytes, meta: dict[str, Any]) -> None:
        """Publish the best weights so far (safetensors), then the record that vouches for them."""
        write_atomic(self.path / "best" / "model.safetensors", weights)
        write_sealed_json(self.path / "best" / "meta.json", meta | {"sha256": digest(weights)})

    def load_best(self) -> bytes:
        """Return the best weights.

        Raises:
            DamagedFileError: The weights or their record are missing or damaged.
        """
        return read_checked(*self._vouched_best())

    def check_best(self, check: Check) -> None:
        """Check the best weights without reading them, where `check` can do without.

        Raises:
            DamagedFileError: The weights or their record are missing or damaged.
        """
        check(*self._vouched_best())

    def best_meta(self) -> dict[str, Any] | None:
        """Return the record of the best weights so far, None where it is missing or damaged."""
        try:
            record = read_sealed_json(self.path / "best" / "meta.json")
        except DamagedFileError:
            return None
        return record and {key: value for key, value in record.items() if key != "sha256"}

    def attempts(self) -> list[dict[str, Any]]:
        """Return the attempts that ended on a number that is not finite, as they were added.

        Raises:
            DamagedFileError: Their record is damaged.
        """
        record = read_sealed_json(self.path / "attempts.json")
        return record["attempts"] if record else []

    def add_attempt(self, attempt: dict[str, Any]) -> None:
        """Record an attempt that ended, in `attempts.json` and in the log."""
        attempts = [*self.attempts(), attempt]
        write_sealed_json(self.path / "attempts.json", {"attempts": attempts})
        self.append_log({"event": "not finite", **attempt})

    def append_log(self, report: Mapping[str, Any]) -> None:
        """Add one line to `log.jsonl`, stamped with the time in seconds since the epoch."""
        append_line(self.path / "log.jsonl", json.dumps({"time": time.time(), **report}))

    def write_result(self, result: dict[str, Any]) -> None:
        """Declare the cell trained, once its best weights have proved whole.

        Raises:
            DamagedFileError: They are not; training is discarded and has to begin again.
        """
        try:
            self.load_best()
        except DamagedFileError:
            self.discard_training()
            raise
        write_sealed_json(self.path / "result.json", result)

    def discard_training(self) -> None:
        """Remove all that training has made, the declaration that it is finished first."""
        (self.path / "result.json").unlink(missing_ok=True)
        for name in ("last", "best"):
            remove_tree(self.path / name)
        # Last: a state must never outlive the record of how gently it was trained.
        (self.path / "attempts.json").unlink(missing_ok=True)

    def _steps(self) -> list[str]:
        return sorted((path.stem for path in self.path.glob("last/state-*.pt")), reverse=True)

    def _vouched_best(self) -> tuple[StorePath, str]:
        record = _record(self.path / "best" / "meta.json")
        return self.path / "best" / "model.safetensors", record["sha256"]

    def _vouched_state(self, step: str) -> tuple[StorePath, str]:
        record = _record(self.path / "last" / f"{step}.json")
        return self.path / "last" / f"{step}.pt", record["sha256"]

    def _remove_state(self, step: str) -> None:
        (self.path / "last" / f"{step}.json").unlink(missing_ok=True)
        (self.path / "last" / f"{step}.pt").unlink(missing_ok=True)


def _record(path: StorePath) -> dict[str, Any]:
    record = read_sealed_json(path)
    if record is None:
        raise DamagedFileError(path, "it is missing")
    return record
