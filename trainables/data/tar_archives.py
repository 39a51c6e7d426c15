"""Any classification dataset in tar archives, which timm's reader lists and nobody unpacks.

A split is an archive, `train.tar`, or a folder of archives. A class is the folder that an image
lies in, or the archive: ImageNet's `ILSVRC2012_img_train.tar` is one with an archive a class.
"""

import os
import tarfile
from typing import NamedTuple

import numpy as np
from timm.data.readers.reader_image_in_tar import extract_tarinfos

from trainables.data.image_files import PackedSplit
from trainables.data.indexed import FileDataset, Index
from trainables.data.reading import Reading

SUFFIX = ".tar"


class _Listed(NamedTuple):
    """The images of a split's archives, in timm's order."""

    class_names: list[str]
    targets: np.ndarray
    names: list[str]
    places: np.ndarray


def read_index(reading: Reading) -> Index:
    """List the archives; the classes are those in `train`, in timm's order.

    Raises:
        ValueError: An archive cannot be read, or has no image in a folder.
        FileNotFoundError: There is no archive of a split.
    """
    train, val = (_listed(reading, part) for part in ("train", "val"))
    numbers = {name: number for number, name in enumerate(train.class_names)}
    for name in sorted(set(val.class_names) - set(numbers)):
        reading.problem("classes in val that train does not have", name)
    renumbered = np.array([numbers.get(name, -1) for name in val.class_names])[val.targets]
    whole = _split(reading, val, renumbered).part(renumbered >= 0)
    return Index(tuple(train.class_names), _split(reading, train, train.targets), whole)


def _split(reading: Reading, listed: _Listed, targets: np.ndarray) -> PackedSplit:
    names = np.array([os.fsencode(name) for name in listed.names], dtype=bytes)
    return PackedSplit(targets.astype(np.int64), reading.root, names, listed.places)


def _listed(reading: Reading, part: str) -> _Listed:
    """List the images of a split."""
    place = _place(reading, part)
    path = reading.root / place
    try:
        samples, targets, classes, _ = extract_tarinfos(str(path), cache_tarinfo=False)
    except (tarfile.TarError, ValueError, OSError) as error:  # ValueError: it has no image.
        raise ValueError(f"{path} has no images that can be read: {error}") from error
    names, places = [], []
    for image, archive, inner in samples:
        start = image.offset_data + (inner.offset_data if inner else 0)
        within = [place, archive, inner and inner.name, image.name.removeprefix("./")]
        names.append("/".join(filter(None, within)))
        places.append((start, image.size))
    by_number = sorted(classes, key=lambda name: int(classes[name]))
    return _Listed(by_number, targets, names, np.array(places, dtype=np.int64))


def _place(reading: Reading, part: str) -> str:
    """Return the archive or the folder of archives of a split, whose stamps are taken."""
    if reading.has(part + SUFFIX):
        return part + SUFFIX
    if not (reading.root / part).is_dir():
        raise FileNotFoundError(f"{reading.root / part}{SUFFIX} is missing (or {part}/*{SUFFIX})")
    archives = [name for name in reading.files([part])[part] if name.endswith(SUFFIX)]
    if not archives:
        raise FileNotFoundError(f"{reading.root / part} has no file that ends in {SUFFIX}")
    for name in archives:
        reading.has(f"{part}/{name}")
    return part


DATASET = FileDataset("tar", "single_label", read_index)
