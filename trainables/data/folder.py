"""Any classification dataset laid out as `train/<class>/*` and `val/<class>/*`."""

from collections.abc import Sequence

import numpy as np

from trainables.data.image_files import FileSplit, has_image_suffix
from trainables.data.indexed import FileDataset, Index
from trainables.data.reading import Reading


def read_index(reading: Reading) -> Index:
    """Read the folder; the classes are the folders in `train`, sorted by name."""
    class_names = class_folders(reading, "train")
    val_names = class_folders(reading, "val", allowed=class_names)
    return Index(
        tuple(class_names),
        read_class_folders(reading, "train", class_names, class_names),
        read_class_folders(reading, "val", val_names, class_names),
    )


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
        reading.problem("classes in val/ that train/ has not", name)
    return [name for name in names if name in set(allowed)]


def read_class_folders(
    reading: Reading, part: str, present: Sequence[str], class_names: Sequence[str]
) -> FileSplit:
    """Return the images in the folders `present`, named like their classes, in sorted order."""
    files = reading.files([f"{part}/{name}" for name in present])
    images = {folder: list(filter(has_image_suffix, names)) for folder, names in files.items()}
    for folder in (folder for folder in images if not images[folder]):
        reading.problem("class folders without an image", folder)
    classes = [class_names.index(name) for name in present]
    targets = np.repeat(classes, [len(names) for names in images.values()])
    names = [f"{folder}/{name}" for folder in images for name in images[folder]]
    return FileSplit.of(reading.root, names, targets.astype(np.int64))


DATASET = FileDataset("folder", "single_label", read_index)
open_dataset = DATASET.open
