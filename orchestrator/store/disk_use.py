"""The files of a study's folder with their kinds and sizes."""

import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from rich.filesize import decimal

from trainables.storage import layout
from trainables.storage.paths import ObjectPath, StorePath

OTHER = "other"
"""Kind of what tokensweep does not write."""


@dataclass(frozen=True)
class StoredFile:
    """A file or a link in a study's folder; links are not followed."""

    path: StorePath
    name: str
    """Path below the study's folder, with slashes."""
    size: int
    """Bytes."""
    changed: float
    """Seconds since the epoch."""
    is_link: bool = False
    shared: bool = False
    """Whether it has other hard links, so that removing it frees nothing."""

    @cached_property
    def known(self) -> layout.StoreFile | None:
        """What the store's layout says of it, None where tokensweep does not write it."""
        return None if self.is_link else layout.file_at(self.name)

    @property
    def kind(self) -> str:
        """A kind of the store's layout, or `OTHER`."""
        return OTHER if self.known is None else self.known.kind

    @property
    def vouches(self) -> bool:
        """Whether it is a record that has to go before the files it vouches for."""
        return self.known is not None and self.known.vouches

    @property
    def cell_id(self) -> str | None:
        """Id of the cell in whose folder it is, if any."""
        parts = self.name.split("/")
        return parts[1] if parts[0] == "cells" and len(parts) > 2 else None

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return time.time() - self.changed

    @property
    def frees(self) -> int:
        """Bytes that removing it frees."""
        return 0 if self.shared else self.size


def files_below(folder: StorePath) -> Iterator[StoredFile]:
    """Yield all files and links below a folder; those that vanish meanwhile are left out."""
    if isinstance(folder, ObjectPath):
        for name, size, changed in folder.listing():
            yield StoredFile(folder / name, name, size, changed)
    else:
        yield from _files_in(cast(Path, folder), "")


def stored_file(path: Path, name: str = "") -> StoredFile:
    """Describe one file or link.

    Raises:
        FileNotFoundError: It is missing.
    """
    status = path.lstat()
    return StoredFile(
        path,
        name,
        status.st_size,
        status.st_mtime,
        is_link=stat.S_ISLNK(status.st_mode),
        shared=status.st_nlink > 1,
    )


def disk_use(study: StorePath) -> dict[str, int]:
    """Return the bytes of each kind of file in a study's folder, the largest first."""
    return by_kind(files_below(study))


def by_kind(files: Iterable[StoredFile]) -> dict[str, int]:
    """Add up the bytes of each kind of file, the largest first."""
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.kind] += file.size
    return {kind: size for kind, size in sizes.most_common() if size}


def sizes_in_words(sizes: dict[str, int]) -> str:
    """Return `1.2 GB: weights 1.1 GB, artifacts 100 MB`."""
    parts = ", ".join(f"{kind} {decimal(size)}" for kind, size in sizes.items())
    return f"{decimal(sum(sizes.values()))}: {parts}" if parts else decimal(0)


def _files_in(folder: Path, prefix: str) -> Iterator[StoredFile]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        name, path = f"{prefix}{entry.name}", folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _files_in(path, f"{name}/")
            continue
        with suppress(FileNotFoundError):
            yield stored_file(path, name)
