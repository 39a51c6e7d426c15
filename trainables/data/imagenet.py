"""ImageNet of the ILSVRC 2012: 1,000 classes, named and sorted by their WordNet ids.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. The images for
training lie in `train/<wnid>/`, those for evaluation in `val/<wnid>/`, or in `val/` itself as they
are published; then the development kit has their labels, by numbers of its own.
"""

import io
import re
from collections.abc import Sequence

import numpy as np
from scipy.io import loadmat

from trainables.data.folder import class_folders, read_class_folders
from trainables.data.image_files import FileSplit
from trainables.data.indexed import FileDataset, Index, PublishedCounts
from trainables.data.reading import Reading

WNID = re.compile(r"n\d{8}")
VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKITS = ("ILSVRC2012_devkit_t12/data/", "")
"""Where the development kit's files may lie."""


def read_index(reading: Reading) -> Index:
    """Read the folder; the classes are the folders in `train`, sorted by name."""
    class_names = class_folders(reading, "train")
    for name in class_names:
        if not WNID.fullmatch(name):
            reading.problem("class folders not named by a WordNet id such as n01440764", name)
    train = read_class_folders(reading, "train", class_names, class_names)
    return Index(tuple(class_names), train, _read_val(reading, class_names))


def _read_val(reading: Reading, class_names: Sequence[str]) -> FileSplit:
    if reading.folders("val"):
        present = class_folders(reading, "val", allowed=class_names)
        return read_class_folders(reading, "val", present, class_names)
    return _read_flat_val(reading, class_names)


def _read_flat_val(reading: Reading, class_names: Sequence[str]) -> FileSplit:
    """Read `val/ILSVRC2012_val_00000001.JPEG` and so on: line 1 and so on of the labels."""
    wnids = _val_wnids(reading)
    class_of = {name: index for index, name in enumerate(class_names)}
    images = _numbered_images(reading)
    names, targets = [], []
    for number, wnid in enumerate(wnids, start=1):
        if number not in images:
            reading.problem("missing images", f"val/ILSVRC2012_val_{number:08d}.JPEG")
        elif wnid not in class_of:
            reading.problem(
                "images of classes that train/ does not have", f"{images[number]}: {wnid}"
            )
        else:
            names.append(images[number])
            targets.append(class_of[wnid])
    for number in sorted(set(images) - set(range(1, len(wnids) + 1))):
        reading.problem(f"images without a line in {GROUND_TRUTH}", images[number])
    return FileSplit.of(reading.root, names, np.array(targets, dtype=np.int64))


def _numbered_images(reading: Reading) -> dict[int, str]:
    """Return the images in `val` by their numbers, counted from 1."""
    images = {}
    for file in reading.files(["val"])["val"]:
        if match := VAL_IMAGE.fullmatch(file):
            images[int(match[1])] = f"val/{file}"
        else:
            reading.problem("files in val/ not named ILSVRC2012_val_NUMBER.JPEG", file)
    return images


def _val_wnids(reading: Reading) -> list[str]:
    """Return the WordNet id of every image for evaluation, in the order of their numbers.

    Raises:
        ValueError: A file of the development kit is damaged.
        FileNotFoundError: A file of the development kit is missing.
    """
    beside = [folder for folder in DEVKITS if (reading.root / folder / GROUND_TRUTH).is_file()]
    folder = beside[0] if beside else DEVKITS[0]
    content = "the labels of the images in val/, which has no class folders (from the devkit)"
    lines = reading.lines(folder + GROUND_TRUTH, content)
    wnid_of = _wnid_by_number(reading, folder + "meta.mat")
    for number, line in lines:
        if line.strip() not in wnid_of:
            path = reading.root / folder / GROUND_TRUTH
            raise ValueError(f"{path}, line {number} is {line!r}, but must be a number in meta.mat")
    return [wnid_of[line.strip()] for _, line in lines]


def _wnid_by_number(reading: Reading, name: str) -> dict[str, str]:
    """Return the WordNet id of each leaf of the development kit's hierarchy, by its number."""
    data = reading.data(name, f"the WordNet ids of the numbers in {GROUND_TRUTH} (from the devkit)")
    try:
        # Its type hints know of paths only.
        synsets = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]  # type: ignore[arg-type]
        leaves = [synset for synset in synsets if synset["num_children"] == 0]
        return {str(int(leaf["ILSVRC2012_ID"])): str(leaf["WNID"]) for leaf in leaves}
    except Exception as error:  # The reader fails with many types.
        raise ValueError(f"{reading.root / name} is damaged: {error}") from error


DATASET = FileDataset(
    "imagenet", "single_label", read_index, PublishedCounts(1_281_167, 50_000, 1000)
)
