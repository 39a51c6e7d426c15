"""Mosaics of one to four handwritten digits, embedded: which digits does an image show?"""

import numpy as np

from trainables.data.base import ImageDataset, PixelSplit
from trainables.data.digits import CLASS_NAMES, SIDE, digit_splits

TRAIN_MOSAICS = 1437
VAL_MOSAICS = 720
TRAIN_SEED, VAL_SEED = 0, 1
TILES = 4


def open_dataset() -> ImageDataset:
    """Open the mosaics; those of a split show that split's digits only."""
    train_digits, val_digits = digit_splits(SIDE // 2)
    train = _mosaics(train_digits, TRAIN_MOSAICS, TRAIN_SEED)
    val = _mosaics(val_digits, VAL_MOSAICS, VAL_SEED)
    return ImageDataset("digits_multi", "multi_label", CLASS_NAMES, train, val)


def _mosaics(digits: PixelSplit, count: int, seed: int) -> PixelSplit:
    """Draw mosaics of 2 by 2 tiles, of which one to four, equally often, show a digit."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(digits), size=(count, TILES))
    filled = rng.permuted(np.tri(TILES, dtype=bool)[rng.integers(TILES, size=count)], axis=1)
    tiles = digits.pixels[drawn] * filled[:, :, None, None]
    targets = np.zeros((count, len(CLASS_NAMES)), dtype=np.float32)
    mosaic, tile = filled.nonzero()
    targets[mosaic, digits.targets[drawn[mosaic, tile]]] = 1
    return PixelSplit(targets, _tiled(tiles))


def _tiled(tiles: np.ndarray) -> np.ndarray:
    """Join [mosaics, 4, side, side], row by row, to [mosaics, 2 side, 2 side]."""
    count, _, side, _ = tiles.shape
    grid = tiles.reshape(count, 2, 2, side, side).transpose(0, 1, 3, 2, 4)
    return grid.reshape(count, 2 * side, 2 * side)
