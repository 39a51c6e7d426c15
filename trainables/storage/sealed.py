"""Files, and the sealed record that vouches for them by their SHA-256.

A file counts only while its record does, so the record is written after its files and removed
before them. Whatever does not match its record is damaged: it is removed, and made again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from trainables.storage.files import (
    Check,
    DamagedFileError,
    JsonRecord,
    digest,
    read_checked,
    read_sealed_json,
    share_file,
    write_atomic,
    write_sealed_json,
)
from trainables.storage.paths import Content, StorePath

Digests = Mapping[str, str]
"""Path of a file below the folder -> its SHA-256."""


@dataclass(frozen=True)
class SealedFiles:
    """Some files of a folder with their record.

    Args:
        folder: Where they are.
        record: Path of the record, below the folder.
        names: Patterns of the files that the record may vouch for, with `*` for a part of a name.
            No other name in a record is believed, so that none leads out of the folder.
        digests: Returns what a record vouches for.
    """

    folder: StorePath
    record: str
    names: Sequence[str]
    digests: Callable[[JsonRecord], Digests]

    @property
    def record_path(self) -> StorePath:
        """Where the record is."""
        return self.folder / self.record

    def read_record(self) -> JsonRecord | None:
        """Return the record, None where there is none.

        Raises:
            DamagedFileError: It does not match its seal.
        """
        return read_sealed_json(self.record_path)

    def write(self, contents: Mapping[str, Content]) -> dict[str, str]:
        """Write files, for which nothing vouches before `seal`; return the SHA-256 of each."""
        for name, content in contents.items():
            write_atomic(self.folder / name, content)
        return {name: digest(content) for name, content in contents.items()}

    def seal(self, record: Mapping[str, object]) -> None:
        """Write the record."""
        write_sealed_json(self.record_path, record)

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            DamagedFileError: The file or the record is missing or damaged.
        """
        return read_checked(self.folder / name, self.vouched()[name])

    def check(self, check: Check = read_checked) -> None:
        """Check all files that the record vouches for.

        Raises:
            DamagedFileError: One of them or the record is missing or damaged.
        """
        for name, expected in self.vouched().items():
            check(self.folder / name, expected)

    def is_current(self, check: Check = read_checked, **expected: object) -> bool:
        """Tell whether there is a record with these fields, and the files that it vouches for.

        Args:
            check: Asked about each file.
            expected: Fields of the record.

        Raises:
            DamagedFileError: There is such a record, but it or one of the files is damaged.
        """
        record = self.read_record()
        if record is None or any(record.get(name) != expected[name] for name in expected):
            return False
        self.check(check)
        return True

    def repair(self, check: Check = read_checked) -> DamagedFileError | None:
        """Remove record and files where one of them is damaged; return what was wrong."""
        try:
            if self.read_record() is not None:
                self.check(check)
        except DamagedFileError as error:
            self.discard()
            return error
        return None

    def take_over(self, other: "SealedFiles") -> bool:
        """Link or copy the files of another folder and their record, if they are there and whole.

        Returns:
            Whether they were; if not, there are none here either.
        """
        try:
            record = other.read_record()
            for name, expected in other.vouched().items() if record else ():
                share_file(other.folder / name, self.folder / name)
                read_checked(self.folder / name, expected)
        except (DamagedFileError, FileNotFoundError):
            record = None
        if record is None:
            self.discard()
            return False
        self.seal(record)
        return True

    def discard(self) -> None:
        """Remove the record, then every file that it may vouch for."""
        self.record_path.unlink(missing_ok=True)
        for name in self.names:
            for path in self.folder.glob(name) if "*" in name else [self.folder / name]:
                path.unlink(missing_ok=True)

    def vouched(self) -> Digests:
        """Return the SHA-256 of every file that the record vouches for.

        Raises:
            DamagedFileError: The record is missing or damaged, or names a file of another kind.
        """
        record = self.read_record()
        if record is None:
            raise DamagedFileError(self.record_path, "it is missing")
        digests = self.digests(record)
        for name in digests:
            if not any(_matches(name, pattern) for pattern in self.names):
                raise DamagedFileError(self.record_path, f"it vouches for {name!r}")
        return digests


def _matches(name: str, pattern: str) -> bool:
    """Match part by part, so that `*` matches neither a slash nor the name of a hidden file."""
    parts, wanted = name.split("/"), pattern.split("/")
    hidden = any(part.startswith(".") for part in parts)
    return len(parts) == len(wanted) and not hidden and all(map(fnmatchcase, parts, wanted))
