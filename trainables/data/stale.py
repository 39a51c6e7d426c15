"""Indices and image caches that no launch would use again."""

import fcntl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import PIL

from trainables.data import cache, indexed
from trainables.data.cache_file import INDEX, PIXELS, RECORD, cache_folder
from trainables.storage.files import DamagedFileError, read_sealed_json


@dataclass(frozen=True)
class Unused:
    """Files that go together, and why nobody would use them."""

    path: Path
    reason: str
    files: tuple[Path, ...]


def stale_indices(folder: Path) -> Iterator[Unused]:
    """Yield the indices of datasets whose folder is gone, and those of another version."""
    for path in sorted(folder.glob("*.index")):
        if path.is_file() and not path.is_symlink() and (reason := indexed.refusal(path)):
            yield Unused(path, reason, (path,))


def stale_caches() -> Iterator[Unused]:
    """Yield this node's caches of images that are gone, and those of another version.

    What is being built is left alone, and so is what is no cache.
    """
    for folder in sorted(cache_folder().glob("*px-????????")):
        if folder.is_symlink() or not _is_free(folder):
            continue
        with suppress(DamagedFileError, OSError):
            if reason := _refusal(folder):
                # The record first: it vouches for the others.
                yield Unused(folder, reason, tuple(folder / n for n in (RECORD, INDEX, PIXELS)))


def _refusal(folder: Path) -> str | None:
    facts = read_sealed_json(folder / RECORD)
    if facts is None:
        return None
    if not Path(facts["root"]).is_dir():
        return f"{facts['root']} is gone"
    if (facts["layout"], facts["pillow"]) != (cache.CACHE_LAYOUT, PIL.__version__):
        return "made by another version"
    return None


def _is_free(folder: Path) -> bool:
    """Tell whether nobody builds this cache, as its lock says."""
    try:
        with folder.with_name(f"{folder.name}.lock").open("a") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
