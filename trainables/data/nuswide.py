"""NUS-WIDE: photographs of Flickr with up to 81 concepts, in the random split of 70 to 30.

Chua et al., "NUS-WIDE: A Real-World Web Image Database from National University of Singapore",
CIVR 2009; images and split as with the asymmetric loss (Ridnik et al., ICCV 2021). A line of
`nus_wid_data.csv` has the image's path, the list of its labels as Python writes it, and its part.
Class indices follow the sorted names of all labels. An image with an empty list has no label.
"""

import ast
import csv
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainables.data.image_files import FileSplit
from trainables.data.indexed import FileDataset, Index, PublishedCounts
from trainables.data.reading import Reading, listed_once

LIST = "nus_wid_data.csv"
PARTS = ("train", "val")


class _ListedImage(NamedTuple):
    file: str
    labels: Sequence[str]
    part: str


def read_index(reading: Reading) -> Index:
    """Read the list, and see that each image is there."""
    images = _images(reading)
    names = sorted({label for image in images for label in image.labels})
    here = reading.present([image.file for image in images])
    found = [image for image, exists in zip(images, here, strict=True) if exists]
    train, val = (
        _split(reading, [image for image in found if image.part == part], names) for part in PARTS
    )
    return Index(tuple(names), train, val)


def _images(reading: Reading) -> list[_ListedImage]:
    """Return what the lines say; note those that cannot be used.

    Raises:
        ValueError: The first line is not a header.
    """
    lines = reading.lines(LIST, "path, labels and split of each image")
    header = _fields(lines[0][1]) if lines else []
    if len(header) != 3 or header[1] != "label":
        raise ValueError(
            f"{reading.root / LIST} begins with {','.join(header)!r}, but must begin with a header "
            "of three columns such as 'path,label,split'"
        )
    images = []
    for number, line in lines[1:]:
        image = _image(_fields(line))
        if isinstance(image, _ListedImage):
            images.append(image)
        else:
            reading.problem("lines that cannot be used", f"{LIST}:{number}: {image}")
    return listed_once(reading, images, lambda image: image.file, lambda image: image.part == "val")


def _fields(line: str) -> list[str]:
    # Line by line: a quote that is not closed must not swallow the lines that follow.
    return next(csv.reader([line]))


def _image(row: Sequence[str]) -> _ListedImage | str:
    """Return the image of a row, or what is wrong with it."""
    if len(row) != 3:
        return f"{len(row)} columns, but must be path, list of labels, split"
    file, listed, part = row
    if part not in PARTS:
        return f"split is {part!r}, but must be 'train' or 'val'"
    try:
        labels = ast.literal_eval(listed)
    except (ValueError, SyntaxError):
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return f"label is {listed!r}, but must be a list of names such as ['clouds', 'sky']"
    return _ListedImage(file, labels, part)


def _split(reading: Reading, images: Sequence[_ListedImage], names: Sequence[str]) -> FileSplit:
    class_of = {name: index for index, name in enumerate(names)}
    targets = np.zeros((len(images), len(names)), dtype=np.float32)
    for row, image in enumerate(images):
        targets[row, [class_of[label] for label in image.labels]] = 1
    return FileSplit.of(reading.root, [image.file for image in images], targets)


DATASET = FileDataset(
    "nuswide", "multi_label", read_index, PublishedCounts(154_000, 66_000, 81, rounded=True)
)
