"""Images in files, for every dataset that is not embedded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from trainables.data.base import LabelledSplit


class UnreadableImage(ValueError):  # noqa: N818 - the name says what is wrong
    """An image file that cannot be decoded; the message names it."""


@dataclass(frozen=True, eq=False)
class FileSplit(LabelledSplit):
    """Images in files below one folder."""

    root: Path
    names: Sequence[str]
    """Path of each image, relative to `root`."""

    def image(self, index: int) -> Image.Image:
        """Decode image `index`; raises `UnreadableImage`."""
        return read_image(self.root / self.names[index])


def read_image(path: Path) -> Image.Image:
    """Decode an image of any mode to RGB, as `PIL` converts it; transparency is dropped.

    Raises:
        UnreadableImage: If the file is missing, damaged, or no image.
    """
    try:
        with Image.open(path) as image:
            # Straight from a palette with transparency, PIL warns for each image.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            return opaque.convert("RGB")
    except Exception as error:  # Decoders fail with a dozen types, SyntaxError among them.
        raise UnreadableImage(f"{path} cannot be decoded: {error}") from error
