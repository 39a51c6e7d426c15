"""Augmentation and preprocessing of a recipe, put together from timm's transforms.

They end in pixels; random erasing and the normalisation come after (`erasing`, `normalisation`).
"""

import random
from collections.abc import Callable

from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment, posterize, rand_augment_transform
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from trainables.data.base import Task
from trainables.data.erasing import Erasing
from trainables.recipe import Recipe

Transform = Callable[[Image.Image], Tensor]
Channels = tuple[float, float, float]
"""A value for each of red, green and blue; pixels range over [0, 1]."""


def train_transform(recipe: Recipe, task: Task, mean: Channels) -> Transform:
    """Return the random transform from an RGB image to pixels, uint8 [3, size, size].

    Single label, as in DeiT (Touvron et al., ICML 2021): random resized crop, flip, RandAugment
    (colour jitter where it is off). Multi-label, as with the asymmetric loss (Ridnik et al.,
    ICCV 2021): the whole image squashed to a square, Cutout, RandAugment.

    Args:
        recipe: Says the size and the strength of each augmentation.
        task: Kind of the targets.
        mean: Of the channels; RandAugment fills with it what it moves in from outside.
    """
    build = _single_label_steps if task == "single_label" else _multi_label_steps
    return _with_black_posterize(build(recipe, mean))


def erasing(recipe: Recipe, task: Task) -> Erasing | None:
    """Return what erases rectangles of the transformed images, single labels' only."""
    if task == "multi_label" or not recipe.random_erasing:
        return None
    return Erasing(recipe.random_erasing)


def eval_transform(recipe: Recipe, task: Task) -> Transform:
    """Return the transform without randomness from an RGB image to pixels, uint8 [3, size, size].

    Single label: the short side is resized (bicubic) to `image_size / crop_ratio`, rounded down
    as in timm, and the centre cropped. Multi-label: the whole image is squashed to a square.
    An image that has its size already is not resampled.
    """
    whole = task == "multi_label"
    return create_transform(
        recipe.image_size,
        interpolation="bicubic",
        normalize=False,
        crop_pct=1.0 if whole else recipe.crop_ratio,
        crop_mode="squash" if whole else "center",
    )


class Cutout:
    """Fills a square with a random colour (DeVries and Taylor, arXiv:1708.04552).

    The centre may be any pixel, so that the image's border can cut the square. The colour, where
    the paper has zeros, follows the training of the asymmetric loss.

    Args:
        side: The square's side relative to the image's, in [0, 1].
    """

    def __init__(self, side: float) -> None:
        self.side = side

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return a copy of an RGB image with a square filled."""
        left, right = _span(image.width, self.side)
        upper, lower = _span(image.height, self.side)
        color = (random.randrange(256), random.randrange(256), random.randrange(256))
        image = image.copy()
        image.paste(color, (left, upper, right, lower))
        return image


def _span(length: int, share: float) -> tuple[int, int]:
    """Draw a stretch of `share` of a side around a random pixel, cut at the side's ends."""
    extent = round(share * length)
    start = random.randrange(length) - extent // 2
    return max(0, start), min(length, start + extent)


def _single_label_steps(recipe: Recipe, mean: Channels) -> transforms.Compose:
    return create_transform(
        recipe.image_size,
        is_training=True,
        scale=recipe.crop_scale,
        hflip=recipe.horizontal_flip,
        color_jitter=recipe.color_jitter or None,
        auto_augment=recipe.rand_augment,
        interpolation="bicubic",
        mean=mean,
        normalize=False,
    )


def _multi_label_steps(recipe: Recipe, mean: Channels) -> transforms.Compose:
    size = recipe.image_size
    steps = [transforms.Resize((size, size), InterpolationMode.BICUBIC), Cutout(recipe.cutout)]
    if recipe.rand_augment is not None:
        steps.append(_rand_augment(recipe.rand_augment, size, mean))
    return transforms.Compose([*steps, transforms.PILToTensor()])


def _rand_augment(specification: str, size: int, mean: Channels) -> RandAugment:
    # The same parameters as timm gives it inside its transform for single labels.
    parameters = {
        "translate_const": int(size * 0.45),
        "img_mean": tuple(min(255, round(255 * channel)) for channel in mean),
        "interpolation": Image.Resampling.BICUBIC,
    }
    return rand_augment_transform(specification, parameters)


def _with_black_posterize(transform: transforms.Compose) -> transforms.Compose:
    """Let RandAugment's posterising to 0 bits give a black image, as before Pillow 13.

    At its strongest timm asks for 0 bits, which Pillow refuses since.
    """
    for step in transform.transforms:
        for operation in step.ops if isinstance(step, RandAugment) else ():
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **unused: object) -> Image.Image:
    return posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)
