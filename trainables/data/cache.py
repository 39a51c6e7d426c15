"""Splits whose images are decoded and reduced once a node, for all of its processes.

The first process that comes builds a node's cache of a split while it holds a lock; others wait.
A cache appears whole, and is built anew where its images have changed since or it is damaged.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO

import PIL
from PIL import Image
from rich.filesize import decimal

from trainables.data.base import ImageDataset, Split, Subset, Target
from trainables.data.cache_builder import build_cache, reduced
from trainables.data.cache_file import PIXELS, CacheFile, StaleCacheError, cache_folder
from trainables.data.image_files import FileSplit
from trainables.storage.files import DamagedFileError, digest

CACHE_LAYOUT = 1
"""Changes where caches of before can no longer be read."""
LOCK_POLL_SECONDS = 0.2
STATUS_THREADS = 16
"""Threads that ask for the status of files: on network storage, asking is waiting."""
FILES_AT_A_TIME = 1000


def cached(dataset: ImageDataset, side: int) -> ImageDataset:
    """Return the dataset with images from caches; one that is embedded stays as it is.

    Args:
        dataset: Whose splits to cache.
        side: Shorter side, in pixels, to which larger images are reduced.
    """

    def wrapped(split: Split, part: str) -> Split:
        if not isinstance(split, FileSplit):
            return split
        return CachedSplit(split, f"{dataset.name}-{part}", side)

    return replace(dataset, train=wrapped(dataset.train, "train"), val=wrapped(dataset.val, "val"))


def prepare(split: Split) -> Iterator[str]:
    """Make a split's images ready to be read in this process and those it starts.

    Yields:
        Words on what is going on, often; none where there is nothing to do.

    Raises:
        NoSpaceError: A cache that is missing would not fit.
    """
    source = split.split if isinstance(split, Subset) else split
    if isinstance(source, CachedSplit):
        yield from source.prepare()


class CachedSplit:
    """Image files, reduced, from this node's cache.

    An image that could not be decoded when the cache was built is read from its file.

    Args:
        split: The image files.
        name: Names the split on this node.
        side: Shorter side, in pixels, to which larger images are reduced.
    """

    def __init__(self, split: FileSplit, name: str, side: int) -> None:
        self.split = split
        self.name = name
        self.side = side
        self._file: CacheFile | None = None

    def __len__(self) -> int:
        return len(self.split)

    def target(self, index: int) -> Target:
        """Return the target of one image."""
        return self.split.target(index)

    def image(self, index: int) -> Image.Image:
        """Return image `index` in mode RGB, reduced.

        Raises:
            UnreadableImage: Its file cannot be decoded.
            DamagedFileError: The cache is damaged; the next `prepare` builds it anew.
            RuntimeError: `prepare` has not been called.
        """
        return self._opened().read(index) or reduced(self.split.image(index), self.side)

    def pixels_digest(self) -> str:
        """Return a digest of all pixels, by the CRC-32 of each image; `prepare` comes first."""
        return digest(self._opened().index.tobytes())

    @property
    def folder(self) -> Path:
        """Where this node has the cache."""
        root = digest(str(self.split.root.absolute()).encode())[:8]
        return cache_folder() / f"{self.name}-{self.side}px-{root}"

    def prepare(self) -> Iterator[str]:
        """Open the cache; see the function `prepare`."""
        facts = self._facts()
        if self._refusal(facts) is None:
            return
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.folder.with_name(f"{self.folder.name}.lock").open("a") as lock:
            while not _locked(lock):
                yield f"waiting for the process that builds the image cache {self.folder}"
                time.sleep(LOCK_POLL_SECONDS)
            refusal = self._refusal(facts)  # Another process may have built it by now.
            if refusal is not None:
                yield from self._build(facts, refusal)

    def _opened(self) -> CacheFile:
        if self._file is None:
            raise RuntimeError(f"the image cache {self.folder} is not open: prepare() comes first")
        return self._file

    def _build(self, facts: Mapping[str, object], refusal: str) -> Iterator[str]:
        reason = f" again, because {refusal}" if refusal else ""
        for words in build_cache(self.split, self.folder, self.side, facts):
            yield f"building the image cache {self.folder}{reason}: {words}"
        self._file = CacheFile.open(self.folder, facts)
        size = decimal((self.folder / PIXELS).stat().st_size)
        yield f"built the image cache {self.folder}{reason}: {size}"

    def _refusal(self, facts: Mapping[str, object]) -> str | None:
        """Open the cache, or return what is wrong with it: nothing if there is none."""
        try:
            self._file = CacheFile.open(self.folder, facts)
        except FileNotFoundError:
            return ""
        except (StaleCacheError, DamagedFileError) as error:
            return str(error)
        return None

    def _facts(self) -> dict[str, object]:
        """Return what the pixels depend on."""
        return {
            "layout": CACHE_LAYOUT,
            "root": str(self.split.root.absolute()),
            "images": len(self.split),
            "files": _fingerprint(self.split),
            "side": self.side,
            "pillow": PIL.__version__,
        }


def _fingerprint(split: FileSplit) -> str:
    """Return a digest of the files' names, sizes and times of change, in order."""

    def digest_of(start: int) -> bytes:
        images = range(start, min(start + FILES_AT_A_TIME, len(split)))
        stamps = (_stamp(os.path.join(split.root, split.file(image))) for image in images)
        names = (split.name(image) for image in images)
        lines = (f"{name}\0{stamp}\n" for name, stamp in zip(names, stamps, strict=True))
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).digest()

    with ThreadPoolExecutor(STATUS_THREADS) as threads:
        parts = threads.map(digest_of, range(0, len(split), FILES_AT_A_TIME))
        return digest(b"".join(parts))


def _stamp(path: str) -> str:
    """Return size and time of change of a file, nothing where it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _locked(file: IO[str]) -> bool:
    try:
        # Unlike flock's, this lock is not held on by the processes that a killed one has started.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
