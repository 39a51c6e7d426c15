"""torchvision's classification sets, read by its classes in their published splits.

A dataset is a row of `SETS`. Its folder is what torchvision calls `root`. Of images in files only
paths and classes come from torchvision: they are decoded, cached and checked as those of any other
dataset. torchvision checks the MD5 of arrays, and of the archives that it downloads.
"""

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets

from trainables.data.base import LabelledSplit, PixelSplit
from trainables.data.image_files import FileSplit
from trainables.data.indexed import FileDataset, Index, PublishedCounts
from trainables.data.reading import Reading

Parts = Sequence[Mapping[str, object]]
"""Arguments of torchvision's class, once for each part of a split."""

STAGING = ".tokensweep-download"
"""Folder that a download fills before its content is moved to where it is read."""


@dataclass(frozen=True)
class TorchvisionSet(ABC):
    """A class of `torchvision.datasets`, and what of it is trained and evaluated on."""

    class_name: str
    lists: tuple[str, ...]
    """Files and folders that say which images there are, relative to torchvision's `root`."""
    train: Parts
    val: Parts
    published: PublishedCounts
    class_names: tuple[str, ...] = ()
    """Given where torchvision has none."""

    @abstractmethod
    def split(self, reading: Reading, parts: Sequence[Any], evaluates: bool) -> LabelledSplit:
        """Return the images of several objects of torchvision's class as one split."""

    def read_index(self, reading: Reading) -> Index:
        """Read the set.

        Raises:
            FileNotFoundError: It is not in the folder.
            ValueError: It is not as torchvision knows it.
        """
        home = self.home(reading.root)
        for path in self.lists:
            if not reading.has(relpath(home / path, reading.root)):
                raise FileNotFoundError(f"{home / path} is missing")
        try:
            train, val = (
                [self._opened(home, part) for part in of] for of in (self.train, self.val)
            )
        except Exception as error:  # A dozen types: lists are pickles, MAT, JSON and text.
            why = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{home / self.tops[0]} is not as published: {why}") from error
        names = self._names([*train, *val], reading)
        return Index(
            names, self.split(reading, train, False), self.split(reading, val, evaluates=True)
        )

    def download(self, root: Path) -> None:
        """Download the set with torchvision; until all of it is there, `root` stays as it was.

        Raises:
            Exception: Whatever torchvision, the network or the disk complains of.
        """
        home = self.home(root)
        if all((home / top).exists() for top in self.tops):
            return
        staging = home / STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            for part in (*self.train, *self.val):
                self._opened(staging, part, download=True)
            for top in self.tops:
                (staging / top).replace(home / top)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @property
    def tops(self) -> tuple[str, ...]:
        """What of the set lies in torchvision's `root` itself."""
        return tuple(dict.fromkeys(path.split("/")[0] for path in self.lists))

    def home(self, root: Path) -> Path:
        """Return torchvision's `root`, for a folder that is it or is what lies in it."""
        inside = root.name == self.tops[0] and not (root / self.lists[0]).exists()
        return root.parent if inside else root

    def _opened(self, home: Path, part: Mapping[str, object], **more: object) -> Any:
        return getattr(torchvision.datasets, self.class_name)(str(home), **part, **more)

    def _names(self, parts: Sequence[Any], reading: Reading) -> tuple[str, ...]:
        if self.class_names:
            return self.class_names
        first, *others = (tuple(map(_first_name, part.classes)) for part in parts)
        for name in sorted({name for other in others for name in set(other) ^ set(first)}):
            reading.problem("classes without an image in one of the lists", name)
        return first


def _first_name(name: str | Sequence[str]) -> str:
    """Return a class's name, the first where it has several, as those of ImageNet have."""
    return name if isinstance(name, str) else name[0]


def _items(part: Any) -> Iterable[tuple[str | Path, int]]:
    """Return paths and classes of an object that was given `str` as its loader."""
    return (part[index] for index in range(len(part)))


@dataclass(frozen=True)
class ImageFileSet(TorchvisionSet):
    """A set whose images are in files."""

    items: Callable[[Any], Iterable[tuple[str | Path, int]]] = _items
    """Returns paths and classes of torchvision's object."""
    every: int | None = None
    """Where no split was published: images whose number it divides are evaluated, the others are
    trained on."""

    def split(self, reading: Reading, parts: Sequence[Any], evaluates: bool) -> FileSplit:
        """Return the images of all parts, and note those that are missing."""
        listed = [
            (relpath(path, reading.root), target)
            for part in parts
            for path, target in self.items(part)
            if self.every is None or (_number(path) % self.every == 0) == evaluates
        ]
        here = reading.present([name for name, _ in listed])
        found = [item for item, exists in zip(listed, here, strict=True) if exists]
        targets = np.array([target for _, target in found], dtype=np.int64)
        return FileSplit.of(reading.root, [name for name, _ in found], targets)


def _number(path: str | Path) -> int:
    """Return the last number in a file's name: 17 of `Forest_17.jpg`."""
    return int(re.findall(r"\d+", Path(path).stem)[-1])


@dataclass(frozen=True)
class ArraySet(TorchvisionSet):
    """A set that torchvision holds in memory."""

    labels: str = "targets"
    """Attribute of torchvision's object; `data` has the pixels."""
    channels_first: bool = False

    def split(self, reading: Reading, parts: Sequence[Any], evaluates: bool) -> PixelSplit:
        """Return the images of all parts."""
        pixels = np.concatenate([np.asarray(part.data) for part in parts])
        targets = np.concatenate([np.asarray(getattr(part, self.labels)) for part in parts])
        if self.channels_first:
            pixels = pixels.transpose(0, 2, 3, 1)
        return PixelSplit(targets.astype(np.int64), np.ascontiguousarray(pixels))


TRAIN: Mapping[str, object] = {"train": True}
TEST: Mapping[str, object] = {"train": False}


def _named(split: str) -> Mapping[str, object]:
    return {"split": split}


def _paths(split: str) -> Mapping[str, object]:
    return {"split": split, "loader": str}


def _mnist(class_name: str) -> ArraySet:
    lists = tuple(
        f"{class_name}/raw/{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    )
    return ArraySet(class_name, lists, (TRAIN,), (TEST,), PublishedCounts(60_000, 10_000, 10))


SETS: dict[str, TorchvisionSet] = {
    "cifar10": ArraySet(
        "CIFAR10",
        ("cifar-10-batches-py/batches.meta",),
        (TRAIN,),
        (TEST,),
        PublishedCounts(50_000, 10_000, 10),
    ),
    "cifar100": ArraySet(
        "CIFAR100",
        ("cifar-100-python/meta",),
        (TRAIN,),
        (TEST,),
        PublishedCounts(50_000, 10_000, 100),
    ),
    "mnist": _mnist("MNIST"),
    "fashion_mnist": _mnist("FashionMNIST"),
    "svhn": ArraySet(
        "SVHN",
        ("train_32x32.mat", "test_32x32.mat"),
        (_named("train"),),
        (_named("test"),),
        PublishedCounts(73_257, 26_032, 10),
        class_names=tuple("0123456789"),
        labels="labels",
        channels_first=True,
    ),
    "stl10": ArraySet(
        "STL10",
        ("stl10_binary/class_names.txt",),
        (_named("train"),),
        (_named("test"),),
        PublishedCounts(5_000, 8_000, 10),
        labels="labels",
        channels_first=True,
    ),
    "pets": ImageFileSet(
        "OxfordIIITPet",
        tuple(f"oxford-iiit-pet/annotations/{name}.txt" for name in ("trainval", "test")),
        (_named("trainval"),),
        (_named("test"),),
        PublishedCounts(3_680, 3_669, 37),
        items=lambda pets: zip(pets._images, pets._labels, strict=True),  # It takes no loader.
    ),
    "flowers102": ImageFileSet(
        "Flowers102",
        ("flowers-102/setid.mat", "flowers-102/imagelabels.mat"),
        (_paths("train"), _paths("val")),
        (_paths("test"),),
        PublishedCounts(2_040, 6_149, 102),
    ),
    "food101": ImageFileSet(
        "Food101",
        ("food-101/meta/train.json", "food-101/meta/test.json"),
        (_paths("train"),),
        (_paths("test"),),
        PublishedCounts(75_750, 25_250, 101),
    ),
    "dtd": ImageFileSet(
        "DTD",
        tuple(f"dtd/dtd/labels/{name}1.txt" for name in ("train", "val", "test")),
        (_paths("train"), _paths("val")),
        (_paths("test"),),
        PublishedCounts(3_760, 1_880, 47),
    ),
    "eurosat": ImageFileSet(
        "EuroSAT",
        ("eurosat/2750",),
        ({"loader": str},),
        ({"loader": str},),
        PublishedCounts(21_600, 5_400, 10),
        every=5,
    ),
    "aircraft": ImageFileSet(
        "FGVCAircraft",
        tuple(
            f"fgvc-aircraft-2013b/data/{name}.txt"
            for name in ("variants", "images_variant_trainval", "images_variant_test")
        ),
        (_paths("trainval"),),
        (_paths("test"),),
        PublishedCounts(6_667, 3_333, 100),
    ),
    "imagenette": ImageFileSet(
        "Imagenette",
        ("imagenette2/train", "imagenette2/val"),
        (_paths("train"),),
        (_paths("val"),),
        PublishedCounts(9_469, 3_925, 10),
    ),
    "gtsrb": ImageFileSet(
        "GTSRB",
        ("gtsrb/GTSRB/Training", "gtsrb/GT-final_test.csv"),
        (_named("train"),),
        (_named("test"),),
        PublishedCounts(26_640, 12_630, 43),
        class_names=tuple(f"{number:05d}" for number in range(43)),
        items=lambda signs: signs._samples,  # It takes no loader.
    ),
    "country211": ImageFileSet(
        "Country211",
        tuple(f"country211/{name}" for name in ("train", "valid", "test")),
        (_paths("train"), _paths("valid")),
        (_paths("test"),),
        PublishedCounts(42_200, 21_100, 211),
    ),
}
"""Dataset -> where torchvision has it, and its splits as they were published. Where a paper has a
part to choose settings on, that is trained on, too, as is usual where results are reported."""

FAMILY = {
    name: FileDataset(name, "single_label", each.read_index, each.published, each.download)
    for name, each in SETS.items()
}
