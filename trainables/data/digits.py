"""scikit-learn's 1,797 handwritten digits, embedded: 8x8 grey pixels shown at 32x32.

The test split of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from trainables.data.base import ImageDataset, LabelledSplit

SIDE = 32
"""Side of the images, in pixels."""
VAL_SHARE = 0.2
SPLIT_SEED = 0
CLASS_NAMES = tuple("0123456789")


@dataclass(frozen=True, eq=False)
class GreySplit(LabelledSplit):
    """Grey images in memory."""

    pixels: np.ndarray
    """uint8 [images, height, width]."""

    def image(self, index: int) -> Image.Image:
        """Return image `index` in mode RGB."""
        return Image.fromarray(self.pixels[index]).convert("RGB")


def open_dataset(*unused: object) -> ImageDataset:
    """Open the digits, four fifths of each class for training; no folder is needed."""
    train, val = digit_splits(SIDE)
    return ImageDataset("digits", "single_label", CLASS_NAMES, train, val)


def digit_splits(side: int) -> tuple[GreySplit, GreySplit]:
    """Return the 1,437 training and 360 evaluation digits, upscaled to `side` pixels.

    Both hold the same digits at every size, in the order of the source.
    """
    source = load_digits()
    pixels = np.stack([_upscaled(digit, side) for digit in source.images])
    train, val = train_test_split(
        np.arange(len(pixels)),
        test_size=VAL_SHARE,
        stratify=source.target,
        random_state=SPLIT_SEED,
    )
    return (
        GreySplit(source.target[train], pixels[train]),
        GreySplit(source.target[val], pixels[val]),
    )


def _upscaled(digit: np.ndarray, side: int) -> np.ndarray:
    """Turn grey values 0 to 16, [8, 8], into uint8 [side, side]."""
    grey = np.rint(digit * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC))
