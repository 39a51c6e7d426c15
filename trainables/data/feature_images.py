"""Any folder of images, with or without labels, for features alone (`task: embedding`)."""

import numpy as np

from trainables.data.image_files import FileSplit, has_image_suffix
from trainables.data.indexed import FileDataset, Index
from trainables.data.reading import Reading

SPLITS = ("train", "val")
"""Folders that are no class, where they are the outermost ones."""


def read_index(reading: Reading) -> Index:
    """Read all images at any depth, in sorted order; nothing is trained, so both splits are these.

    Their label is the outermost folder, where every image is in one; else all have the same.
    """
    files = reading.files_below(["."])["."]
    names = list(filter(has_image_suffix, files))
    for name in sorted(set(files) - set(names)):
        reading.note("files left out, whose suffix is none of an image", name)
    if len(names) == 1:
        reading.problem("folders with a single image, which has no other to be compared with", ".")
    folders = [_class_folder(name) for name in names]
    labelled = all(folders)
    numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    targets = [numbers[folder] if labelled else 0 for folder in folders]
    images = FileSplit.of(reading.root, names, np.array(targets, dtype=np.int64))
    return Index(tuple(numbers) if labelled else (), images, images)


def _class_folder(name: str) -> str:
    """Return the outermost folder of an image below the splits, empty where it is in none."""
    folders = name.split("/")[:-1]
    inside = folders[1:] if folders[:1] and folders[0] in SPLITS else folders
    return inside[0] if inside else ""


DATASET = FileDataset("images", "embedding", read_index)
