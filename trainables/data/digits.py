"""scikit-learn's 1,797 handwritten digits, embedded: 8x8 grey pixels shown at 32x32.

The test split of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998.

`digits.npz` holds what `sklearn.datasets.load_digits` gives and how `train_test_split` parts it,
stratified by class with seed 0: importing scikit-learn would take every process seconds.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.base import ImageDataset, PixelSplit

SIDE = 32
"""Side of the images, in pixels."""
SOURCE = Path(__file__).with_name("digits.npz")
CLASS_NAMES = tuple("0123456789")


def open_dataset() -> ImageDataset:
    """Open the digits, four fifths of each class for training; no folder is needed."""
    train, val = digit_splits(SIDE)
    return ImageDataset("digits", "single_label", CLASS_NAMES, train, val)


def digit_splits(side: int) -> tuple[PixelSplit, PixelSplit]:
    """Return the 1,437 training and 360 evaluation digits, upscaled to `side` pixels.

    Both hold the same digits at every size, in the order of the source.
    """
    with np.load(SOURCE) as source:
        pixels = np.stack([_upscaled(digit, side) for digit in source["images"]])
        classes = source["classes"].astype(np.int64)
        train, val = (
            PixelSplit(classes[part], pixels[part]) for part in (source["train"], source["val"])
        )
    return train, val


def _upscaled(digit: np.ndarray, side: int) -> np.ndarray:
    """Turn grey values 0 to 16, [8, 8], into uint8 [side, side]."""
    grey = np.rint(digit * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC))
