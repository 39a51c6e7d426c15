"""Painting over the patches of an image: what all pictures of tokens are drawn by, in NumPy."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""RGB, [height, width, 3]; the grid of patches divides it evenly."""

GREY, WHITE = (153, 153, 153), (255, 255, 255)
DROPPED_OPACITY = 0.88
"""Of the grey over a dropped patch."""


def painted(pixels: Pixels, labels: NDArray, colours: NDArray, opacity: NDArray) -> Pixels:
    """Return an image with its patches painted over, and white lines where their labels change.

    Args:
        pixels: The image, which stays as it is.
        labels: [rows, columns] what each patch belongs to.
        colours: [rows, columns, 3] red, green and blue in 0..255.
        opacity: [rows, columns] of the paint, in 0..1.
    """
    cover = spread(opacity, pixels)[..., None]
    mixed = pixels * (1 - cover) + spread(colours, pixels) * cover
    drawn: Pixels = mixed.round().astype(np.uint8)
    wide = spread(labels, pixels)
    drawn[:-1][wide[:-1] != wide[1:]] = WHITE
    drawn[:, :-1][wide[:, :-1] != wide[:, 1:]] = WHITE
    return drawn


def spread(values: NDArray, pixels: Pixels) -> NDArray:
    """Return the values [rows, columns, ...] of patches at every pixel, [height, width, ...]."""
    (height, width), (rows, columns) = pixels.shape[:2], values.shape[:2]
    down, across = np.arange(height) * rows // height, np.arange(width) * columns // width
    return values[down[:, None], across]
