"""Small copies of torchvision's classification sets, in the layouts of their real archives.

`ARCHIVES[name](root)` writes what torchvision unpacks into its `root` and returns the classes of
the images of both splits, in the order of the lists. `register` makes torchvision take the files
for the published ones: the MD5 sums that its classes hold become those of the copies.
"""

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torchvision.datasets
from PIL import Image
from scipy.io import savemat


class Labels(NamedTuple):
    """Class indices of the images of both splits, in their order."""

    train: list[int]
    val: list[int]


def write_pets(root: Path) -> Labels:
    """Write `oxford-iiit-pet/`: photographs, and lists with numbers of breeds from 1."""
    breeds = ("Abyssinian", "american_bulldog", "Bengal")
    home = root / "oxford-iiit-pet"
    found = {}
    for part, count in (("trainval", 9), ("test", 6)):
        lines = []
        for number in range(count):
            breed = number % 3
            name = f"{breeds[breed]}_{number + 1 + 100 * (part == 'test')}"
            _photograph(home / f"images/{name}.jpg", number, grey=number == 4)
            lines.append(f"{name} {breed + 1} {1 if breed != 1 else 2} {number}")
        _lines(home / f"annotations/{part}.txt", lines)
        found[part] = [number % 3 for number in range(count)]
    _lines(home / "annotations/list.txt", ["#Image CLASS-ID SPECIES BREED ID"])
    (home / "annotations/trimaps").mkdir()
    return Labels(found["trainval"], found["test"])


def write_flowers102(root: Path) -> Labels:
    """Write `flowers-102/`: numbered photographs, and their classes and parts as MAT files."""
    home = root / "flowers-102"
    labels = np.array([77, 1, 102, 1, 77, 102, 5], dtype=np.uint8)
    for number in range(1, 8):
        _photograph(home / f"jpg/image_{number:05d}.jpg", number)
    ids = {"trnid": [2, 3], "valid": [5, 6], "tstid": [1, 4, 7]}
    savemat(home / "imagelabels.mat", {"labels": labels[None]})
    savemat(home / "setid.mat", {k: np.array([v], dtype=np.uint16) for k, v in ids.items()})
    return Labels([0, 101, 76, 101], [76, 0, 4])


def write_food101(root: Path) -> Labels:
    """Write `food-101/`: photographs in a folder a class, and lists by class as JSON."""
    home = root / "food-101"
    for part, first, count in (("train", 1005649, 3), ("test", 2005649, 2)):
        names = {
            food: [f"{food}/{first + number}" for number in range(count)]
            for food in ("apple_pie", "waffles")
        }
        (home / "meta").mkdir(parents=True, exist_ok=True)
        (home / f"meta/{part}.json").write_text(json.dumps(names))
        for number, name in enumerate(name for each in names.values() for name in each):
            _photograph(home / f"images/{name}.jpg", number)
    _lines(home / "meta/classes.txt", ["apple_pie", "waffles"])
    return Labels([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])


def write_dtd(root: Path) -> Labels:
    """Write `dtd/dtd/`: photographs in a folder a texture, and ten partitions of them."""
    home = root / "dtd/dtd"
    for number, part in enumerate(("train", "val", "test")):
        names = [
            f"{texture}/{texture}_{10 * number + image:04d}.jpg"
            for texture in ("banded", "zigzagged")
            for image in range(2)
        ]
        for image, name in enumerate(names):
            _photograph(home / f"images/{name}", image)
        _lines(home / f"labels/{part}1.txt", names)
        _lines(home / f"labels/{part}2.txt", names[:1])
    return Labels([0, 0, 1, 1] * 2, [0, 0, 1, 1])


def write_eurosat(root: Path) -> Labels:
    """Write `eurosat/2750/`: pictures in a folder a class, numbered from 1, without any list."""
    for kind in ("AnnualCrop", "SeaLake"):
        for number in range(1, 12):
            _photograph(root / f"eurosat/2750/{kind}/{kind}_{number}.jpg", number)
    return Labels([0] * 9 + [1] * 9, [0, 0, 1, 1])


def write_aircraft(root: Path) -> Labels:
    """Write `fgvc-aircraft-2013b/data/`: photographs, and lists of each with its variant."""
    home = root / "fgvc-aircraft-2013b/data"
    variants = ("707-320", "Cessna 172", "Tu-154")
    _lines(home / "variants.txt", variants)
    for part, first, labels in (("trainval", 34309, [0, 1, 2, 1]), ("test", 1514522, [2, 0])):
        names = [f"{first + number:07d}" for number in range(len(labels))]
        _lines(
            home / f"images_variant_{part}.txt",
            [f"{name} {variants[label]}" for name, label in zip(names, labels, strict=True)],
        )
        for number, name in enumerate(names):
            _photograph(home / f"images/{name}.jpg", number)
    return Labels([0, 1, 2, 1], [2, 0])


def write_imagenette(root: Path) -> Labels:
    """Write `imagenette2/`: ImageNet's layout for some of its classes."""
    for part, count in (("train", 3), ("val", 2)):
        for wnid in ("n01440764", "n03888257"):
            for number in range(count):
                name = f"{wnid}_{number}" if part == "train" else f"ILSVRC2012_val_{number:08d}"
                _photograph(root / f"imagenette2/{part}/{wnid}/{name}.JPEG", number)
    return Labels([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])


def write_gtsrb(root: Path) -> Labels:
    """Write `gtsrb/`: signs as PPM, in a folder a class to train on, in a list to test on."""
    home = root / "gtsrb"
    for label in range(3):
        folder = home / f"GTSRB/Training/{label:05d}"
        for number in range(2):
            _photograph(folder / f"00000_{number:05d}.ppm", number)
        _lines(folder / f"GT-{label:05d}.csv", ["Filename;Width;Height;ClassId"])
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, label in enumerate([2, 0, 1]):
        _photograph(home / f"GTSRB/Final_Test/Images/{number:05d}.ppm", number)
        lines.append(f"{number:05d}.ppm;53;54;6;5;48;49;{label}")
    _lines(home / "GT-final_test.csv", lines)
    return Labels([0, 0, 1, 1, 2, 2], [2, 0, 1])


def write_country211(root: Path) -> Labels:
    """Write `country211/`: photographs in a folder a country for each of three parts."""
    for part, count in (("train", 3), ("valid", 1), ("test", 2)):
        for country in ("AD", "ZW"):
            for number in range(count):
                _photograph(root / f"country211/{part}/{country}/{part}{number}.jpg", number)
    return Labels([0, 0, 0, 1, 1, 1, 0, 1], [0, 0, 1, 1])


def write_cifar10(root: Path) -> Labels:
    """Write `cifar-10-batches-py/`: pickles of rows of red, then green, then blue pixels."""
    home = root / "cifar-10-batches-py"
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    for number, name in enumerate([*batches, "test_batch"]):
        _pickle(home / name, {"data": _rows(4, number), "labels": [number, 9, 0, 3]})
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    _pickle(home / "batches.meta", {"label_names": names, "num_vis": 3072})
    return Labels([label for number in range(5) for label in (number, 9, 0, 3)], [5, 9, 0, 3])


def write_cifar100(root: Path) -> Labels:
    """Write `cifar-100-python/`: one pickle a split, with fine and coarse labels."""
    home = root / "cifar-100-python"
    for number, (name, labels) in enumerate((("train", [99, 0, 7]), ("test", [3, 98]))):
        coarse = [label // 5 for label in labels]
        rows = _rows(len(labels), number)
        _pickle(home / name, {"data": rows, "fine_labels": labels, "coarse_labels": coarse})
    _pickle(home / "meta", {"fine_label_names": [f"class {number}" for number in range(100)]})
    return Labels([99, 0, 7], [3, 98])


def write_mnist(root: Path, name: str = "MNIST") -> Labels:
    """Write `MNIST/raw/`: images and labels in IDX files."""
    labels = {"train": [5, 0, 4, 1], "t10k": [7, 2]}
    for part, of_part in labels.items():
        home = root / f"{name}/raw"
        home.mkdir(parents=True, exist_ok=True)
        pixels = _rows(len(of_part), 1)[:, : 28 * 28]
        head = struct.pack(">4i", 0x803, len(of_part), 28, 28)
        (home / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = struct.pack(">2i", 0x801, len(of_part))
        (home / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes(of_part))
    return Labels(*labels.values())


def write_fashion_mnist(root: Path) -> Labels:
    """Write `FashionMNIST/raw/`, in MNIST's format."""
    return write_mnist(root, "FashionMNIST")


def write_svhn(root: Path) -> Labels:
    """Write two MAT files, in which 10 stands for the digit 0 and images are the last axis."""
    root.mkdir(parents=True, exist_ok=True)
    for number, (part, labels) in enumerate((("train", [1, 10, 9]), ("test", [10, 2]))):
        pixels = _rows(len(labels), number).reshape(-1, 32, 32, 3).transpose(1, 2, 3, 0)
        y = np.array(labels, dtype=np.uint8)[:, None]
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": y})
    return Labels([1, 0, 9], [0, 2])


def write_stl10(root: Path) -> Labels:
    """Write `stl10_binary/`: planes of columns as bytes, and labels from 1."""
    home = root / "stl10_binary"
    _lines(home / "class_names.txt", [f"class {number}" for number in range(10)])
    for part, labels in (("train", [2, 10]), ("test", [1]), ("unlabeled", [0])):
        pixels = np.random.default_rng(len(part)).integers(256, size=(len(labels), 27648))
        (home / f"{part}_X.bin").write_bytes(pixels.astype(np.uint8).tobytes())
        if part != "unlabeled":
            (home / f"{part}_y.bin").write_bytes(bytes(labels))
    return Labels([1, 9], [0])


ARCHIVES: dict[str, Callable[[Path], Labels]] = {
    name.removeprefix("write_"): write
    for name, write in list(globals().items())
    if name.startswith("write_")
}


def register(name: str, root: Path, patch) -> None:
    """Make torchvision take the files in `root` for the published ones.

    Args:
        name: A set of `ARCHIVES`.
        root: Where it was written.
        patch: pytest's `monkeypatch`.
    """
    known = torchvision.datasets
    if name in ("cifar10", "cifar100", "stl10"):
        cls = {"cifar10": known.CIFAR10, "cifar100": known.CIFAR100, "stl10": known.STL10}[name]
        for table in ("train_list", "test_list"):
            files = [[file, _md5(root / cls.base_folder / file)] for file, _ in getattr(cls, table)]
            patch.setattr(cls, table, files)
        if name != "stl10":
            meta = cls.meta | {"md5": _md5(root / cls.base_folder / cls.meta["filename"])}
            patch.setattr(cls, "meta", meta)
    if name == "svhn":
        files = {
            part: [url, file, _md5(root / file)]
            for part, (url, file, _) in known.SVHN.split_list.items()
            if part != "extra"
        }
        patch.setattr(known.SVHN, "split_list", files)
    if name == "flowers102":
        kept = known.Flowers102._file_dict
        files = {
            kind: (file, _md5(root / "flowers-102" / file))
            for kind, (file, _) in kept.items()
            if kind != "image"
        }
        patch.setattr(known.Flowers102, "_file_dict", kept | files)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _rows(count: int, seed: int) -> np.ndarray:
    """Return uint8 [count, 3072]."""
    return np.random.default_rng(seed).integers(256, size=(count, 3072), dtype=np.uint8)


def _photograph(path: Path, seed: int, *, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (20, 28) if grey else (20, 28, 3)
    pixels = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _pickle(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def _lines(path: Path, lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
