"""Images in files, for every dataset that is not embedded."""

import io
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from trainables.data.base import LabelledSplit

IMAGE_SUFFIXES = frozenset((
    ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
))  # fmt: skip
"""In lower case; files may have them in any case."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PACKED = re.compile(r".*?\.(?:tar|arrow)(?=/)", re.DOTALL)
"""The part of an image's name that names the file it is packed in."""
CHUNK_FRAME = 12
"""Bytes of a PNG chunk beside its data: length, kind and checksum."""
WHITES = {"I": (255.0, 2.0**16 - 1, 2.0**31 - 1), "F": (1.0, 255.0, 2.0**16 - 1)}
"""Mode of a grey image, 32-bit integers or floats -> what its white can be."""


class UnreadableImage(ValueError):  # noqa: N818 - the name says what is wrong
    """An image file that cannot be decoded; the message names it."""


@dataclass(frozen=True, eq=False)
class FileSplit(LabelledSplit):
    """Images in files below one folder."""

    root: Path
    names: np.ndarray
    """Path of each image relative to `root`, as bytes: a list of a million `str` takes three times
    the memory, and every loader process would come to hold a copy of its own."""

    @classmethod
    def of(cls, root: Path, names: Sequence[str], targets: np.ndarray) -> "FileSplit":
        """Return the split of the images `names` below `root`."""
        return cls(targets, root, np.array([os.fsencode(name) for name in names], dtype=bytes))

    def name(self, index: int) -> str:
        """Return the path of image `index` relative to `root`."""
        return os.fsdecode(self.names[index])

    def file(self, index: int) -> str:
        """Return the path, relative to `root`, of the file that holds image `index`."""
        return self.name(index)

    def part(self, chosen: np.ndarray | slice) -> Self:
        """Return some of the images as a split of their own."""
        return replace(self, targets=self.targets[chosen], names=self.names[chosen])

    def image(self, index: int) -> Image.Image:
        """Decode image `index`; raises `UnreadableImage`."""
        return read_image(self.root / self.name(index))


@dataclass(frozen=True, eq=False)
class PackedSplit(FileSplit):
    """Images in large files, such as tar archives, which are read where they are.

    An image's name goes on after that of its file: `train.tar/cat/1.jpg`.
    """

    places: np.ndarray
    """int64 [images, 2]: where an image's bytes begin in its file, and how many they are."""

    def file(self, index: int) -> str:
        """Return the path, relative to `root`, of the file that holds image `index`."""
        found = PACKED.match(self.name(index))
        assert found is not None
        return found[0]

    def part(self, chosen: np.ndarray | slice) -> Self:
        """Return some of the images as a split of their own."""
        return replace(super().part(chosen), places=self.places[chosen])

    def image(self, index: int) -> Image.Image:
        """Decode image `index`; raises `UnreadableImage`."""
        start, size = self.places[index].tolist()
        try:
            with (self.root / self.file(index)).open("rb") as packed:
                packed.seek(start)
                content = packed.read(size)
        except OSError as error:
            raise UnreadableImage(f"{self.root / self.name(index)}: {error}") from error
        return read_image(self.root / self.name(index), content)


def has_image_suffix(file: str) -> bool:
    """Tell whether a file of this name is taken for an image; hidden ones are not."""
    return not file.startswith(".") and os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES


def undecodable(split: FileSplit) -> list[str]:
    """Decode every image; return the name of each that cannot be decoded, and why."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of an odd tag in an image that is fine.
        for index in range(len(split)):
            try:
                split.image(index)
            except UnreadableImage as error:
                found.append(f"{split.name(index)}: {error.__cause__}")
    return found


def pixel_digests(split: FileSplit) -> list[bytes]:
    """Return what identifies the decoded pixels of every image; raises `UnreadableImage`."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(len(split)):
            image = split.image(index)
            found.append(sha256(f"{image.size}".encode() + image.tobytes()).digest())
    return found


def read_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Decode an image of any mode to RGB; transparency is dropped, and so is its orientation.

    Args:
        path: The file, or what to call the image in errors.
        content: The image's bytes; None reads them from the file.

    Raises:
        UnreadableImage: If the file is missing, damaged, or no image.
    """
    try:
        return _decoded(path, content)
    except Exception as error:  # Decoders fail with a dozen types, SyntaxError among them.
        raise UnreadableImage(f"{path} cannot be decoded: {error}") from error


def _decoded(path: Path, content: bytes | None) -> Image.Image:
    """Decode an image to RGB, without its metadata where those exceed Pillow's limits."""
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            return _to_rgb(image)
    except ValueError:
        content = path.read_bytes() if content is None else content
        if not content.startswith(PNG_SIGNATURE):
            raise
        with Image.open(io.BytesIO(_critical_chunks(content))) as image:
            return _to_rgb(image)


def _critical_chunks(png: bytes) -> bytes:
    """Return a PNG with the chunks alone that its pixels need (ISO/IEC 15948, section 5.4)."""
    kept, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start < len(png):
        end = start + CHUNK_FRAME + int.from_bytes(png[start : start + 4])
        kind = png[start + 4 : start + 8]
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _as_bytes(image: Image.Image) -> np.ndarray:
    """Return the greys of a mode in `WHITES` as uint8 [height, width].

    A file does not say what its white is: it is the first in `WHITES` that no pixel exceeds, else
    the brightest pixel. Pixels below 0 or not a number are black.
    """
    greys = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(min=0)
    brightest = greys.max(initial=0.0)
    white = next((white for white in WHITES[image.mode] if brightest <= white), brightest)
    return (greys * (255 / white)).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip the greys at 255, not scale them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in WHITES:
        return Image.fromarray(_as_bytes(image)).convert("RGB")
    if "transparency" in image.info:  # Straight from a palette with it, PIL warns.
        return image.convert("RGBA").convert("RGB")
    if image.mode == "RGB":
        image.load()  # Converting would copy it, which can take as long as decoding it.
        return image
    return image.convert("RGB")
