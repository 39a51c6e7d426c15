"""Any classification dataset as `train/<class>/**` and `val/<class>/**`, or as `<class>/**`."""

import os
from collections.abc import Sequence
from hashlib import sha256
from math import ceil
from pathlib import Path

import numpy as np

from trainables.data.image_files import FileSplit, has_image_suffix
from trainables.data.indexed import FileDataset, Index
from trainables.data.reading import Reading

HELD_OUT = 5
"""One of so many images of a class is evaluated where nobody has chosen those."""
OTHER_NAMES = ("valid", "validation", "test")
"""What people call the folder `val`."""


def read_index(reading: Reading) -> Index:
    """Read the folder; the classes are the folders in `train`, or in it itself, sorted by name.

    Raises:
        ValueError: There is no folder of a class.
        FileNotFoundError: Of `train` and `val`, there is only one.
    """
    if not any((reading.root / part).is_dir() for part in ("train", "val")):
        return _read_classes_alone(reading)
    class_names = class_folders(reading, "train")
    _check_val(reading.root)
    val_names = class_folders(reading, "val", allowed=class_names)
    return Index(
        tuple(class_names),
        read_class_folders(reading, "train", class_names, class_names),
        read_class_folders(reading, "val", val_names, class_names),
    )


def _check_val(root: Path) -> None:
    for name in OTHER_NAMES:
        if (root / name).is_dir() and not (root / "val").is_dir():
            raise FileNotFoundError(
                f"folder {root / 'val'} is missing; if {root / name} is to be evaluated on, "
                "name it val"
            )


def _read_classes_alone(reading: Reading) -> Index:
    """Read a folder of classes, of each of which one image in `HELD_OUT` is evaluated."""
    class_names = class_folders(reading, "")
    images = read_class_folders(reading, "", class_names, class_names)
    evaluated = np.zeros(len(images), dtype=bool)
    for label, class_name in enumerate(class_names):
        of_class = np.flatnonzero(images.targets == label)
        if len(of_class) == 1:
            reading.problem("classes with a single image, which cannot be split", class_name)
        # By a hash, so that neighbours in a sequence fall apart and new images move few others.
        order = sorted(of_class.tolist(), key=lambda index: _hash(images.name(index)))
        evaluated[order[: ceil(len(order) / HELD_OUT)]] = True
    for index in np.flatnonzero(evaluated).tolist():
        reading.note("images held out for evaluation, as there is no val/", images.name(index))
    for name in filter(has_image_suffix, reading.files([""])[""]):
        reading.note("images left out, which are in no class's folder", name)
    return Index(tuple(class_names), images.part(~evaluated), images.part(evaluated))


def _hash(name: str) -> bytes:
    return sha256(os.fsencode(name)).digest()


def class_folders(reading: Reading, part: str, allowed: Sequence[str] | None = None) -> list[str]:
    """Return the folders in `part`, sorted; note those that are not `allowed`.

    Raises:
        ValueError: There is none.
        FileNotFoundError: There is no folder `part`.
    """
    names = reading.folders(part)
    if not names:
        raise ValueError(f"{reading.root / part} has no folder, but must have one for each class")
    if allowed is None:
        return names
    for name in sorted(set(names) - set(allowed)):
        reading.problem("classes in val/ that train/ does not have", name)
    return [name for name in names if name in set(allowed)]


def read_class_folders(
    reading: Reading, part: str, present: Sequence[str], class_names: Sequence[str]
) -> FileSplit:
    """Return the images below the folders `present`, named like their classes, in sorted order."""
    files = reading.files_below([os.path.join(part, name) for name in present])
    images = {folder: list(filter(has_image_suffix, names)) for folder, names in files.items()}
    for folder, names in files.items():
        for name in sorted(set(names) - set(images[folder])):
            reading.note("files left out, whose suffix is none of an image", f"{folder}/{name}")
    for folder in (folder for folder in images if not images[folder]):
        reading.problem("class folders without an image", folder)
    classes = [class_names.index(name) for name in present]
    targets = np.repeat(classes, [len(names) for names in images.values()])
    names = [f"{folder}/{name}" for folder in images for name in images[folder]]
    return FileSplit.of(reading.root, names, targets.astype(np.int64))


DATASET = FileDataset("folder", "single_label", read_index)
