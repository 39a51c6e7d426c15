"""Images in files, for every dataset that is not embedded."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.base import LabelledSplit

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""In lower case; files may have them in any case."""


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

    def image(self, index: int) -> Image.Image:
        """Decode image `index`; raises `UnreadableImage`."""
        return read_image(self.root / self.name(index))


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


def read_image(path: Path) -> Image.Image:
    """Decode an image of any mode to RGB; transparency is dropped.

    Raises:
        UnreadableImage: If the file is missing, damaged, or no image.
    """
    try:
        with Image.open(path) as image:
            return _to_rgb(image)
    except Exception as error:  # Decoders fail with a dozen types, SyntaxError among them.
        raise UnreadableImage(f"{path} cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # PIL would clip the greys at 255, not scale them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:  # Straight from a palette with it, PIL warns.
        return image.convert("RGBA").convert("RGB")
    if image.mode == "RGB":
        image.load()  # Converting would copy it, which can take as long as decoding it.
        return image
    return image.convert("RGB")
