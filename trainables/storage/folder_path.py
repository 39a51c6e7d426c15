"""The path of a store in a file system, whose operations are retried."""

import os
import stat
from collections.abc import Callable, Generator
from fnmatch import fnmatchcase
from pathlib import PosixPath
from typing import Self, TypeVar

from trainables.storage.retry import retrying

T = TypeVar("T")


class FolderPath(PosixPath):
    """A `pathlib` path whose operations in `StorePath` are retried; see `storage.retry`.

    `pathlib` takes some failures for answers: a folder that cannot be read for a moment would
    look empty, and what is in it would be made again.
    """

    def exists(self) -> bool:
        """Return whether the file or folder exists."""
        return self._answer(os.stat) is not None

    def is_file(self) -> bool:
        """Return whether the file exists."""
        found = self._answer(os.stat)
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_dir(self) -> bool:
        """Return whether the folder exists."""
        found = self._answer(os.stat)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def glob(self, pattern: str) -> Generator[Self, None, None]:
        """Yield what matches a pattern with `*` in some of its parts, in no order."""
        name, _, further = pattern.partition("/")
        if "*" in name:
            found = [n for n in self._answer(os.listdir) or () if fnmatchcase(n, name)]
        else:
            found = [name] if further or (self / name).exists() else []
        for path in (self / name for name in found):
            if further:
                yield from path.glob(further)
            else:
                yield path

    def read_bytes(self) -> bytes:
        """Return the file's content.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return retrying(super().read_bytes, self)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the file's content, by default as UTF-8."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        remove = super().unlink
        retrying(lambda: remove(missing_ok), self)

    def _answer(self, ask: Callable[[str], T]) -> T | None:
        """Return the file system's answer, None if the path does not exist."""
        try:
            return retrying(lambda: ask(str(self)), self)
        except (FileNotFoundError, NotADirectoryError):
            return None
