"""Which of a study's big files are known to be whole, so that a launch need not read them.

`STUDY/verified.json` (sealed) holds the SHA-256 and the stamp of every file that was read and
found whole, or that its evaluation has just written. A file whose stamp has changed since is read
again. A bit that flips without changing the stamp is found where the file is used.
"""

import time
from collections.abc import Mapping
from typing import Any

from orchestrator.storage.store import StoredCell
from trainables.files import (
    DamagedFileError,
    read_checked,
    read_sealed_json,
    stamp,
    write_sealed_json,
)
from trainables.store_path import StorePath

SAVE_SECONDS = 60.0
"""A driver that is killed forgets what it came to know within this time."""

Entries = dict[str, list[Any]]
"""SHA-256 and stamp of files, by path below the study's folder."""


class Verified:
    """The record of one study.

    Args:
        study: The study's folder.

    Attributes:
        files_read: How many files had to be read so far.
    """

    def __init__(self, study: StorePath) -> None:
        self.files_read = 0
        self._study = study
        self._before = _load(study / "verified.json")
        self._now: Entries = {}
        self._saved = time.monotonic()

    def check(self, path: StorePath, expected: str) -> None:
        """Raise DamagedFileError unless a file is whole; read it only if its stamp is new."""
        name = _name(self._study, path)
        entry = _entry(path, expected)
        if self._before.get(name) != entry:
            self.files_read += 1
            read_checked(path, expected)
        self._now[name] = entry

    def read(self, path: StorePath, expected: str) -> None:
        """Raise DamagedFileError unless a file is whole; read it whatever is known."""
        self._before.pop(_name(self._study, path), None)
        self.check(path, expected)

    def add(self, entries: Mapping[str, list[Any]]) -> None:
        """Take over what `trusted` found; keep it on the disk from time to time."""
        self._now.update(entries)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def forget(self, path: StorePath) -> None:
        """Have the next launch read a file, for it has proved damaged."""
        self._now.pop(_name(self._study, path), None)

    def save(self) -> None:
        """Write the record, of what was checked or added alone, if it has changed."""
        if self._now != self._before:
            write_sealed_json(self._study / "verified.json", {"files": self._now})
            self._before = dict(self._now)
        self._saved = time.monotonic()


def written(study: StorePath, cell: StoredCell) -> Entries:
    """Return what is known of a cell's files once they have been written or read, unread."""
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
    """Return what an earlier launch came to know: nothing, where its record is damaged."""
    try:
        record = read_sealed_json(path)
    except DamagedFileError:
        return {}
    return record["files"] if record else {}
