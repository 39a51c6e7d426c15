"""From the pixels that travel to what a model takes: a quarter of the bytes on the way."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.data.erasing import erase_
from trainables.data.transforms import Channels


class Normalisation:
    """Makes batches of a loader ready for a model, on the device they are on.

    Args:
        mean: Subtracted from the channels of pixels in [0, 1].
        std: Then divides them.
    """

    def __init__(self, mean: Channels, std: Channels) -> None:
        self._mean_std = torch.tensor([mean, std])[:, :, None, None]

    def __call__(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise the images, and erase of them what the batch says.

        Args:
            batch: Pixels uint8 [B, 3, H, W], targets and indices, and where images are erased at
                random what is erased of each; see `erase_`.

        Returns:
            Images float32 [B, 3, H, W], targets and indices.
        """
        pixels, targets, index, *erased = batch
        self._mean_std = self._mean_std.to(pixels.device)
        mean, std = self._mean_std
        images = pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
        if erased:
            erase_(images, *erased)
        return images, targets, index
