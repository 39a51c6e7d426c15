"""Random erasing: drawn image by image where images are augmented, done batch by batch on a device.

Between the two an image travels as it was, beside the rectangle to be erased and what fills it.
"""

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

Erased = tuple[Tensor, Tensor]
"""What is erased of an image: int16 [4] top, left, bottom and right of a rectangle, bottom and
right exclusive, all 0 where nothing is; and float32 [3 * height * width], its new values."""


class Erasing:
    """Draws rectangles of normal noise (Zhong et al., "Random Erasing", AAAI 2020), timm's way.

    Args:
        probability: Share of the images that get one.
    """

    def __init__(self, probability: float) -> None:
        self._erase = RandomErasing(probability, mode="pixel", device="cpu")

    def __call__(self, height: int, width: int) -> Erased:
        """Draw what is erased of an image, from the global generators."""
        canvas = _Canvas(height, width)
        self._erase(canvas)
        return canvas.box, canvas.noise


class _Canvas:
    """Takes what is erased where an image would be changed: an image is much to look through."""

    dtype = torch.float32

    def __init__(self, height: int, width: int) -> None:
        self._size = (3, height, width)
        self.box = torch.zeros(4, dtype=torch.int16)
        self.noise = torch.empty(0)

    def size(self) -> tuple[int, int, int]:
        return self._size

    def __setitem__(self, place: tuple[slice, slice, slice], noise: Tensor) -> None:
        _, rows, columns = place
        corners = (rows.start, columns.start, rows.stop, columns.stop)
        self.box = torch.tensor(corners, dtype=torch.int16)
        self.noise = noise.flatten()


def erase_(images: Tensor, boxes: Tensor, noise: Tensor) -> None:
    """Erase rectangles of normalised images, in place.

    Args:
        images: Float32 [B, 3, H, W].
        boxes: Int16 [B, 4], of each image as in `Erased`.
        noise: Float32, the values of all images one after the other.
    """
    top, left, bottom, right = boxes.to(torch.int32)[:, :, None].unbind(dim=1)
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    high, wide = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    images.masked_scatter_((high[:, :, None] & wide[:, None, :])[:, None], noise)
