"""Images of one split, decoded, in one memory-mapped file.

FOLDER/NAME/pixels.bin    RGB images, uint8 [height, width, 3], one after the other
index.npy     where in it each image lies, its size and its CRC-32
cache.json    sealed: what was cached, and the SHA-256 of the index
"""

import io
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from trainables.storage.files import DamagedFileError
from trainables.storage.sealed import SealedFiles

FOLDER_VARIABLE = "TOKENSWEEP_CACHE"
"""Environment variable with the folder of a node's caches."""
PIXELS, INDEX, RECORD = "pixels.bin", "index.npy", "cache.json"
ENTRY = np.dtype([("offset", "<i8"), ("width", "<i4"), ("height", "<i4"), ("crc", "<u4")])
"""An image in the index; its width is 0 where the pixels are without it."""


class StaleCacheError(Exception):
    """A cache of other images, or made in another way, than those that are asked for."""


def cache_folder() -> Path:
    """Return where this node keeps its caches: `FOLDER_VARIABLE`, else below the temp folder."""
    default = Path(tempfile.gettempdir()) / f"tokensweep-{os.getuid()}"
    return Path(os.environ.get(FOLDER_VARIABLE) or default)


class CacheFile:
    """A cache that is whole, to be read; processes that have it open share its pages.

    Args:
        folder: Where it is.
        index: `ENTRY` [images].
    """

    def __init__(self, folder: Path, index: np.ndarray) -> None:
        self._folder = folder
        self.index = index
        self._pixels = _mapped(folder / PIXELS)

    def __reduce__(self) -> tuple[type["CacheFile"], tuple[Path, np.ndarray]]:
        # A process that gets this pickled maps the file itself: the map would come as a copy.
        return CacheFile, (self._folder, self.index)

    @classmethod
    def open(cls, folder: Path, facts: Mapping[str, object]) -> Self:
        """Open a cache.

        Args:
            folder: Where it is.
            facts: What has to be known of its images.

        Raises:
            FileNotFoundError: There is none.
            StaleCacheError: It is one of other images, or was made in another way.
            DamagedFileError: One of its files is missing or damaged.
        """
        files = _files(folder)
        record = files.read_record()
        if record is None:
            raise FileNotFoundError(files.record_path)
        changed = [key for key in facts if record.get(key) != facts[key]]
        if changed:
            raise StaleCacheError(f"{folder} is of other {', '.join(changed)}")
        index = np.load(io.BytesIO(files.read(INDEX)))
        pixels = folder / PIXELS
        size = pixels.stat().st_size if pixels.exists() else 0
        if size != record["bytes"]:
            raise DamagedFileError(pixels, f"it has {size:,} bytes, not {record['bytes']:,}")
        return cls(folder, index)

    def read(self, position: int) -> Image.Image | None:
        """Return an image in mode RGB, None where the cache is without it.

        Raises:
            DamagedFileError: Its pixels have changed; `open` refuses the cache from now on.
        """
        entry = self.index[position]
        width, height, offset = (int(entry[key]) for key in ("width", "height", "offset"))
        if not width:
            return None
        pixels = self._pixels[offset : offset + height * width * 3]
        if zlib.crc32(pixels.data) != entry["crc"]:
            (self._folder / RECORD).unlink(missing_ok=True)
            raise DamagedFileError(self._folder / PIXELS, f"image {position} has another CRC-32")
        return Image.fromarray(pixels.reshape(height, width, 3))


def write_record(folder: Path, index: np.ndarray, facts: Mapping[str, object]) -> None:
    """Write what vouches for the pixels in `folder`, once they have reached the disk."""
    with (folder / PIXELS).open("r+b") as pixels:
        os.fsync(pixels.fileno())
        size = os.fstat(pixels.fileno()).st_size
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    files = _files(folder)
    digests = files.write({INDEX: buffer.getvalue()})
    files.seal({**facts, "bytes": size, "index_sha256": digests[INDEX]})


def _files(folder: Path) -> SealedFiles:
    # The pixels have a CRC-32 an image instead: reading all of them would take minutes.
    return SealedFiles(folder, RECORD, (INDEX,), lambda record: {INDEX: record["index_sha256"]})


def _mapped(path: Path) -> np.ndarray:
    if not path.stat().st_size:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, mode="r"))
