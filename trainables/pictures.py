"""Pictures of single images as an evaluation shows them to a model."""

import io
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.cell.cell import Cell
from trainables.data import open_dataset
from trainables.data.transforms import eval_transform

MOST_PIXELS = 224
"""Sides of larger pictures are reduced to this."""
SMALL = 64
"""JPEG would show its blocks in pictures with sides up to this; they are PNG."""
JPEG_QUALITY = 85


def eval_pictures(
    cell: Cell,
    images: Sequence[int],
    data_root: Path | None,
    index_folder: Path | None = None,
) -> tuple[list[str], tuple[str, ...]]:
    """Cut pictures out of a cell's evaluation split.

    They are what the model sees but for the normalisation, so that its patches divide them
    evenly. An image cache is not used, which a recipe's may have been reduced a little before.

    Args:
        cell: Names the dataset and the preprocessing.
        images: Indices in the split.
        data_root: The dataset's folder; None for an embedded dataset.
        index_folder: Where indices of datasets are kept; None keeps none.

    Returns:
        A PNG or JPEG data URI of each image, and the names of all classes.

    Raises:
        OSError: The folder or a file in it is missing.
        ValueError: The dataset is not as published, or an image cannot be decoded.
    """
    dataset = open_dataset(cell.dataset, data_root, index_folder)
    transform = eval_transform(cell.recipe, cell.recipe.task or dataset.task)
    pixels = (transform(dataset.val.image(image)) for image in images)
    return [_data_uri(rgb.permute(1, 2, 0).numpy()) for rgb in pixels], dataset.class_names


def _data_uri(pixels: np.ndarray) -> str:
    """Encode RGB pixels, uint8 [height, width, 3]."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    form = "png" if max(picture.size) <= SMALL else "jpeg"
    file = io.BytesIO()
    picture.save(
        file, form, **({"quality": JPEG_QUALITY} if form == "jpeg" else {"optimize": True})
    )
    return f"data:image/{form};base64,{b64encode(file.getvalue()).decode()}"
