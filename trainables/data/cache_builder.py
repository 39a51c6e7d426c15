"""The building of an image cache, by all cores of a node."""

import errno
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from PIL import Image
from rich.filesize import decimal
from torch.utils.data import DataLoader

from trainables.data.cache_file import ENTRY, FOLDER_VARIABLE, PIXELS, write_record
from trainables.data.image_files import FileSplit, UnreadableImage

IMAGES_A_TASK = 32
"""Images that a process takes at a time."""

T = TypeVar("T")


class NoSpaceError(OSError):
    """A cache that does not fit; the message says what it needs, what there is, what to do."""


def reduced_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the width and height that `reduced` gives an image."""
    short, long = sorted((width, height))
    if short <= side:
        return width, height
    other = side * long // short
    return (side, other) if width < height else (other, side)


def reduced(image: Image.Image, side: int) -> Image.Image:
    """Reduce an image whose shorter side has more than `side` pixels to just that (bicubic).

    The longer side is rounded down, as evaluation does it. A smaller image stays as it is.
    """
    size = reduced_size(*image.size, side)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def build_cache(
    split: FileSplit, folder: Path, side: int, facts: Mapping[str, object]
) -> Iterator[str]:
    """Build a cache in place of the one that may be there; nobody else may do so meanwhile.

    Args:
        split: The images.
        folder: Where the cache is to be.
        side: Shorter side, in pixels, to which larger images are reduced.
        facts: What the cache's record is to say of the images.

    Yields:
        Words on how far it is, often.

    Raises:
        NoSpaceError: The cache would not fit; nothing of it has been written.
    """
    for useless in (folder, *folder.parent.glob(f".{folder.name}.*")):
        shutil.rmtree(useless, ignore_errors=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside.mkdir()
    try:
        building = _Building(split, side, aside / PIXELS, np.zeros(len(split), ENTRY))
        yield from building.measure()
        yield from building.fill()
        write_record(aside, building.index, facts)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Building:
    split: FileSplit
    side: int
    pixels: Path
    index: np.ndarray

    def measure(self) -> Iterator[str]:
        """Find each image's size and place; reserve the space."""
        sizes: list[tuple[int, int]] = []
        for some in self._in_parallel(self._sizes):
            sizes += some
            yield f"{len(sizes):,} of {len(self.split):,} images measured"
        self.index["width"], self.index["height"] = np.array(sizes).T
        ends = np.cumsum([3 * width * height for width, height in sizes])
        self.index["offset"][1:] = ends[:-1]
        _reserve(self.pixels, int(ends[-1]))

    def fill(self) -> Iterator[str]:
        """Decode, reduce and write all images; those that cannot be decoded leave the index."""
        checks: list[int | None] = []
        size = decimal(self.pixels.stat().st_size)
        for some in self._in_parallel(self._written):
            checks += some
            yield f"{len(checks):,} of {len(self.split):,} images, {size}"
        self.index["crc"] = [check or 0 for check in checks]
        self.index["width"][[check is None for check in checks]] = 0

    def _sizes(self, positions: list[int]) -> list[tuple[int, int]]:
        return [self._size(position) for position in positions]

    def _size(self, position: int) -> tuple[int, int]:
        path = self.split.root / self.split.name(position)
        with suppress(Exception), Image.open(path) as image:  # Decoders fail in many ways.
            return reduced_size(*image.size, self.side)
        return 0, 0

    def _written(self, positions: list[int]) -> list[int | None]:
        with self.pixels.open("r+b") as file:
            return [self._write(file, position) for position in positions]

    def _write(self, file: IO[bytes], position: int) -> int | None:
        """Write one image; return its CRC-32, None if it cannot be decoded as it was measured."""
        entry = self.index[position]
        with suppress(UnreadableImage):
            image = reduced(self.split.image(position), self.side)
            if image.size == (entry["width"], entry["height"]):
                file.seek(entry["offset"])
                file.write(pixels := image.tobytes())
                return zlib.crc32(pixels)
        return None

    def _in_parallel(self, work: Callable[[list[int]], T]) -> Iterator[T]:
        """Yield what `work` returns for some positions at a time, in order."""
        processors = len(os.sched_getaffinity(0))
        yield from DataLoader(
            range(len(self.split)),  # type: ignore[arg-type]
            batch_size=IMAGES_A_TASK,
            num_workers=min(processors, math.ceil(len(self.split) / IMAGES_A_TASK)),
            collate_fn=work,
            # Without a generator of its own, it draws from PyTorch's global one.
            generator=torch.Generator(),
        )


def _reserve(path: Path, size: int) -> None:
    """Make a file of `size` bytes, which the disk then has."""
    free = shutil.disk_usage(path.parent).free
    try:
        if size > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with path.open("wb") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpaceError(
            f"the image cache needs {decimal(size)}, but {path.parent.parent} has {decimal(free)} "
            f"free; let {FOLDER_VARIABLE} name another folder on this node, or make the recipe's "
            f"cache smaller or null"
        ) from error
