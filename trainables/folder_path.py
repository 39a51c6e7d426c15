"""Where a store lies in a file system: a path that is patient with it."""

import os
import stat
from collections.abc import Callable, Generator
from fnmatch import fnmatchcase
from pathlib import PosixPath
from typing import Self, TypeVar

from trainables.patience import patiently

T = TypeVar("T")


class FolderPath(PosixPath):
    """A file or folder. Whatever `StorePath` lists is tried again where there is patience.

    `pathlib` would take some failures for answers: of a folder that cannot be read for a moment
    that it is empty, so that what is in it would be made anew.
    """

    def exists(self) -> bool:
        """Tell whether there is such a file or folder."""
        return self._answer(os.stat) is not None

    def is_file(self) -> bool:
        """Tell whether there is such a file."""
        found = self._answer(os.stat)
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_dir(self) -> bool:
        """Tell whether there is such a folder."""
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
        return patiently(super().read_bytes, self)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the file's content, which is UTF-8 unless said otherwise."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        remove = super().unlink
        patiently(lambda: remove(missing_ok), self)

    def _answer(self, ask: Callable[[str], T]) -> T | None:
        """Return what the file system answers, None where there is nothing to ask about."""
        try:
            return patiently(lambda: ask(str(self)), self)
        except (FileNotFoundError, NotADirectoryError):
            return None
