"""What lies in a study's folder: every file with its kind and its size."""

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.filesize import decimal

from trainables.store_path import ObjectPath, StorePath

KINDS = {
    "weights": r"cells/[^/]+/best/(model\.safetensors|meta\.json)",
    "states": r"cells/[^/]+/last/state-\d+\.(pt|json)",
    "artifacts": r"cells/[^/]+/(at-r[^/]+/)?(patterns\.npz|features\.npz|predictions\.parquet)",
    "records": (
        r"cells/[^/]+/((cell|import|result|attempts|memory|eval)\.json|at-r[^/]+/eval\.json|error\.txt)"
        r"|comparisons/error\.txt|study\.yaml|(verified|status)\.json|driver\.(lock|lease)"
    ),
    "logs": (
        r"cells/[^/]+/(log\.jsonl|progress\.csv|events\.out\.tfevents\.[^/]+)|wandb(\.json|/.+)"
    ),
    "comparisons": r"comparisons/[^/]+\.json",
    "tables": r"tables/(\w+\.parquet|inputs\.json)",
    "samples": r"samples/[^/]+\.json",
    "report": r"report/(index\.html|inputs\.json)|figures/[^/]+\.(svg|png)",
    "Tune": r"tune/launch-\d+/.+",
    "left over": r"(.+/)?\.[^/]+\.[0-9a-f]+\.tmp|stop-[^/]+",
}
"""What tokensweep writes, as regular expressions of paths below the study's folder."""
OTHER = "other"


@dataclass(frozen=True)
class StoredFile:
    """A file of a study's folder, or a link, which is not followed."""

    path: StorePath
    name: str
    """Path below the study's folder, with slashes."""
    size: int
    """Bytes."""
    changed: float
    """Seconds since the epoch."""
    is_link: bool = False
    shared: bool = False
    """Whether it has further names, so that removing this one frees nothing."""

    @property
    def kind(self) -> str:
        """One of `KINDS`, or `OTHER` for what tokensweep does not know."""
        if self.is_link:
            return OTHER
        matching = (kind for kind, name in KINDS.items() if re.fullmatch(name, self.name))
        return next(matching, OTHER)

    @property
    def cell_id(self) -> str | None:
        """Id of the cell whose folder holds it, if one's does."""
        parts = self.name.split("/")
        return parts[1] if parts[0] == "cells" and len(parts) > 2 else None

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return time.time() - self.changed

    @property
    def frees(self) -> int:
        """Bytes that the disk gets back with it."""
        return 0 if self.shared else self.size


def files_below(folder: StorePath) -> Iterator[StoredFile]:
    """Yield all files and links below a folder; one that vanishes meanwhile is left out."""
    if isinstance(folder, ObjectPath):
        for name, size, changed in folder.listing():
            yield StoredFile(folder / name, name, size, changed)
    else:
        yield from _files_in(cast(Path, folder), "")


def stored_file(path: Path, name: str = "") -> StoredFile:
    """Return what is to be known of one file or link.

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
    """Return the bytes of every kind of file in a study's folder, the largest first."""
    return by_kind(files_below(study))


def by_kind(files: Iterable[StoredFile]) -> dict[str, int]:
    """Return the bytes of every kind among some files, the largest first."""
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.kind] += file.size
    return {kind: size for kind, size in sizes.most_common() if size}


def in_words(sizes: dict[str, int]) -> str:
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
