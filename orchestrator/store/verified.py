"""Big files of a study that are known to be whole, so that a launch need not read them.

`STUDY/verified.json` holds the SHA-256 and the stamp of every file that was read and found whole,
or that an evaluation has just written. A file whose stamp has changed is read again. A flipped bit
that leaves the stamp unchanged is found when the file is used.
"""

import time
from collections.abc import Mapping
from typing import Any

from orchestrator.store.stored_cell import StoredCell
from trainables.storage import layout
from trainables.storage.files import (
    DamagedFileError,
    read_checked,
    read_sealed_json,
    stamp,
    write_sealed_json,
)
from trainables.storage.paths import StorePath

VERIFIED_SAVE_SECONDS = 60.0
"""Seconds between two saves; a driver that is killed loses what it learned since."""

Entries = dict[str, list[Any]]
"""SHA-256 and stamp of files, by path below the study's folder."""


class Verified:
    """The record of one study.

    Args:
        study: The study's folder.

    Attributes:
        files_read: How many files were read so far.
    """

    def __init__(self, study: StorePath) -> None:
        self.files_read = 0
        self._study = study
        self._before = _load(layout.VERIFIED.below(study))
        self._now: Entries = {}
        self._saved = time.monotonic()

    def check(self, path: StorePath, expected: str) -> None:
        """Raise DamagedFileError unless a file is whole; read it only if its stamp has changed."""
        name = _name(self._study, path)
        entry = _entry(path, expected)
        if self._before.get(name) != entry:
            self.files_read += 1
            read_checked(path, expected)
        self._now[name] = entry

    def read(self, path: StorePath, expected: str) -> None:
        """Raise DamagedFileError unless a file is whole; always read it."""
        self._before.pop(_name(self._study, path), None)
        self.check(path, expected)

    def add(self, entries: Mapping[str, list[Any]]) -> None:
        """Add what `written` returned; save it from time to time."""
        self._now.update(entries)
        if time.monotonic() - self._saved > VERIFIED_SAVE_SECONDS:
            self.save()

    def forget(self, path: StorePath) -> None:
        """Make the next launch read a file that turned out to be damaged."""
        self._now.pop(_name(self._study, path), None)

    def save(self) -> None:
        """Write what was checked or added, if that has changed."""
        if self._now != self._before:
            write_sealed_json(layout.VERIFIED.below(self._study), {"files": self._now})
            self._before = dict(self._now)
        self._saved = time.monotonic()


def written(study: StorePath, cell: StoredCell) -> Entries:
    """Return digest and stamp of a cell's files, which have just been written, unread."""
    entries: Entries = {}

    def note(path: StorePath, expected: str) -> None:
        entries[_name(study, path)] = _entry(path, expected)

    cell.repair(note)
    return entries


def _name(study: StorePath, path: StorePath) -> str:
    return "/".join(path.absolute().parts[len(study.absolute().parts) :])


def _entry(path: StorePath, expected: str) -> list[Any]:
    try:
        return [expected, *stamp(path)]
    except FileNotFoundError as error:
        raise DamagedFileError(path, "it is missing") from error


def _load(path: StorePath) -> Entries:
    """Return the record of an earlier launch, empty if it is damaged."""
    try:
        record = read_sealed_json(path)
    except DamagedFileError:
        return {}
    return record["files"] if record else {}
