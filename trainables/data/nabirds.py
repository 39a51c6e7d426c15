"""NABirds: 555 kinds of North American birds.

Van Horn et al., "Building a bird recognition app and large scale dataset with citizen
scientists", CVPR 2015. Lists give the path, the class and the part of each image by its id. The
ids of the classes are not contiguous, as the inner nodes of their hierarchy have ids, too: class
indices follow the sorted ids, as numbers, of the classes that images have.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainables.data.image_files import FileSplit
from trainables.data.indexed import FileDataset, Index, PublishedCounts
from trainables.data.reading import Reading, listed_once

TRAIN, VAL = "1", "0"
"""Values in `train_test_split.txt`."""
BLANKS = " \t"
"""What may surround a line's content; other separators can be part of a file's name."""


class _BirdImage(NamedTuple):
    file: str
    class_id: int
    part: str


def read_index(reading: Reading) -> Index:
    """Read the lists, and see that each image is there."""
    names = _values(reading, "classes.txt", "the name of each class")
    images = _images(reading, names)
    class_ids = sorted({image.class_id for image in images})
    reading.folder("images")
    here = reading.present([image.file for image in images])
    found = [image for image, exists in zip(images, here, strict=True) if exists]
    return Index(
        tuple(names[str(class_id)] for class_id in class_ids),
        _split(reading, [image for image in found if image.part == TRAIN], class_ids),
        _split(reading, [image for image in found if image.part == VAL], class_ids),
    )


def _images(reading: Reading, class_names: dict[str, str]) -> list[_BirdImage]:
    """Return the images that have a class and a part; note the others."""
    files = _values(reading, "images.txt", "the path of each image")
    class_ids = _values(reading, "image_class_labels.txt", "the class of each image")
    parts = _values(reading, "train_test_split.txt", "the part of each image, 1 for training")
    images = []
    for uid, file in files.items():
        if class_ids.get(uid) not in class_names:
            reading.problem("images without a class of classes.txt in image_class_labels.txt", uid)
        elif parts.get(uid) not in (TRAIN, VAL):
            reading.problem("images without 0 or 1 in train_test_split.txt", uid)
        else:
            images.append(_BirdImage(f"images/{file}", int(class_ids[uid]), parts[uid]))
    images = listed_once(reading, images, lambda image: image.file, lambda image: image.part == VAL)
    for uid in sorted((class_ids.keys() | parts.keys()) - files.keys()):
        reading.problem("images that images.txt does not list", uid)
    return images


def _values(reading: Reading, name: str, content: str) -> dict[str, str]:
    """Read the lines `id value` of a list; note those that are not, and ids listed twice."""
    values: dict[str, str] = {}
    for number, line in reading.lines(name, content):
        uid, _, value = line.strip(BLANKS).partition(" ")
        if not value:
            reading.problem("lines that are not an id and a value", f"{name}:{number}: {line!r}")
        elif uid in values:
            reading.problem("ids listed twice", f"{name}:{number}: {uid}")
        else:
            values[uid] = value
    return values


def _split(reading: Reading, images: Sequence[_BirdImage], class_ids: Sequence[int]) -> FileSplit:
    targets = np.searchsorted(class_ids, [image.class_id for image in images])
    return FileSplit.of(reading.root, [image.file for image in images], targets.astype(np.int64))


DATASET = FileDataset("nabirds", "single_label", read_index, PublishedCounts(23_929, 24_633, 555))
