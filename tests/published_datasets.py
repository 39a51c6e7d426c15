"""Miniature copies of the published datasets: real photographs and digits in the real formats.

`write_imagenet`, `write_nabirds`, `write_coco` and `write_nuswide` fill a folder that
`open_dataset(name, folder)` opens like the real one, and return what they wrote as a `Written`.
`WRITERS` has them by the dataset's name:

    written = WRITERS["coco"](tmp_path / "coco", train=32, val=16)
    written.class_names       # ("person", "car", "dog", "toothbrush")
    written.train             # {"train2014/COCO_train2014_000000000009.jpg": (0, 2), ...}

`train` and `val` are the numbers of images that the opened splits have. Images have 48 to 64 pixels
a side, or 128 x 112. What they show can be learnt: single labels are regions of scikit-learn's two
photographs, several labels are digits of its handwritten ones pasted onto a photograph.

Each copy has the traps of its original: grey and CMYK JPEGs, PNGs that are named as JPEGs,
labels that are not contiguous, COCO's images without annotations and crowds, NUS-WIDE's quoted
lists and empty ones. Everything is the same at every call.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits, load_sample_images

Labels = tuple[int, ...]
"""Class indices of one image, ascending."""

WNIDS = ("n02119789", "n02100735", "n02110185", "n02096294", "n02102040", "n02066245", "n02509815")
"""The first synsets of the ILSVRC 2012 devkit, in its own order: that of its ids 1, 2, ..."""
DEVKIT = "ILSVRC2012_devkit_t12/data"
BIRDS = {
    295: "Common Eider (Adult male)",
    299: "Canvasback",
    817: "Oak Titmouse",
    1001: "Dark-eyed Junco (Oregon)",
    1010: "Bullock's Oriole (Female/Immature male)",
}
"""Leaves of NABirds's hierarchy by id; sorted as text, 1001 would come first."""
CATEGORIES = {1: "person", 3: "car", 18: "dog", 90: "toothbrush"}
CONCEPTS = ("animal", "beach", "clouds", "sky", "water")
SIDES = (12, 34, 100)
"""Sides in pixels of a small, medium and large object by COCO's areas, 32 x 32 and 96 x 96."""


@dataclass(frozen=True)
class Written:
    """What was written, as an opened dataset should show it."""

    root: Path
    class_names: tuple[str, ...]
    train: dict[str, Labels]
    """Labels of each image by its path relative to `root`."""
    val: dict[str, Labels]


def write_imagenet(
    root: Path, *, train: int = 32, val: int = 16, classes: int = 4, flat_val: bool = False
) -> Written:
    """Write `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, up to seven classes.

    With `flat_val`, the evaluation images lie in `val` itself, as they are published, and the
    devkit with their labels in `ILSVRC2012_devkit_t12/data`.
    """
    wnids = sorted(WNIDS[:classes])
    train_labels = [index % classes for index in range(train)]
    val_labels = [(3 * index + 1) % classes for index in range(val)]
    train_names = [f"train/{wnids[k]}/{wnids[k]}_{i}.JPEG" for i, k in enumerate(train_labels)]
    folders = ["val" if flat_val else f"val/{wnids[k]}" for k in val_labels]
    val_names = [f"{f}/ILSVRC2012_val_{i:08d}.JPEG" for i, f in enumerate(folders, start=1)]
    if flat_val:
        _write_devkit(root / DEVKIT, [wnids[k] for k in val_labels], classes)
    return Written(
        root,
        tuple(wnids),
        _write_single(root, train_names, train_labels, seed=0),
        _write_single(root, val_names, val_labels, seed=1),
    )


def write_nabirds(root: Path, *, train: int = 32, val: int = 16, classes: int = 4) -> Written:
    """Write the images of NABirds, up to five classes, and its lists."""
    ids = list(BIRDS)[:classes]
    lists: dict[str, list[str]] = {}
    files: dict[bool, list[str]] = {True: [], False: []}
    labels: dict[bool, list[int]] = {True: [], False: []}
    for index, position in enumerate(np.random.default_rng(2).permutation(train + val).tolist()):
        uid = uuid.UUID(int=(index + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)
        label, in_train = position % classes, position < train
        file = f"{ids[label]:04d}/{uid.hex}.jpg"
        for name, value in (
            ("images", file),
            ("image_class_labels", ids[label]),
            ("train_test_split", int(in_train)),
        ):
            lists.setdefault(name, []).append(f"{uid} {value}")
        files[in_train].append(f"images/{file}")
        labels[in_train].append(label)
    parents = {1: "Ducks, Geese, and Swans", 22: "Perching Birds"}
    named = {0: "Birds"} | parents | {key: BIRDS[key] for key in ids}
    lists["classes"] = [f"{key} {name}" for key, name in named.items()]
    above = dict.fromkeys(parents, 0) | {key: 1 if key < 300 else 22 for key in ids}
    lists["hierarchy"] = [f"{child} {parent}" for child, parent in above.items()]
    for name, content in lists.items():
        _write_lines(root / f"{name}.txt", content)
    return Written(
        root,
        tuple(BIRDS[key] for key in ids),
        _write_single(root, files[True], labels[True], seed=2),
        _write_single(root, files[False], labels[False], seed=3),
    )


def write_coco(root: Path, *, train: int = 32, val: int = 16) -> Written:
    """Write `train2014/`, `val2014/` and the two lists of instances; four categories.

    One more image a split has no annotation, and so is not one of the opened split's.
    """
    return Written(
        root,
        tuple(CATEGORIES.values()),
        _write_coco_split(root, "train2014", train, seed=4),
        _write_coco_split(root, "val2014", val, seed=5),
    )


def write_nuswide(root: Path, *, train: int = 32, val: int = 16) -> Written:
    """Write `images/` and `nus_wid_data.csv`; five labels, and some images without any."""
    rng = np.random.default_rng(6)
    written: dict[str, dict[str, Labels]] = {"train": {}, "val": {}}
    lines = ["path,label,split"]
    for index, position in enumerate(rng.permutation(train + val)):
        split = "train" if position < train else "val"
        labels = () if index % 8 == 7 else _some_labels(rng, index, len(CONCEPTS))
        name = f"images/{index}_{2124494179 + 7919 * index}_{rng.bytes(5).hex()}_m.jpg"
        _save(_collage(rng, [(label, SIDES[1]) for label in labels]), root / name, index)
        listed = str([CONCEPTS[label] for label in labels])
        lines.append(f'{name},"{listed}",{split}' if "," in listed else f"{name},{listed},{split}")
        written[split][name] = labels
    _write_lines(root / "nus_wid_data.csv", lines)
    return Written(root, CONCEPTS, written["train"], written["val"])


WRITERS: dict[str, Callable[..., Written]] = {
    "imagenet": write_imagenet,
    "nabirds": write_nabirds,
    "coco": write_coco,
    "nuswide": write_nuswide,
}


def photographs() -> list[Image.Image]:
    """Return scikit-learn's two photographs, 640 x 427 pixels."""
    return [Image.fromarray(pixels) for pixels in _photographs()]


@cache
def _photographs() -> list[np.ndarray]:
    return load_sample_images().images


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    source = load_digits()
    return np.rint(source.images * (255 / 16)).astype(np.uint8), source.target


def _write_single(
    root: Path, names: Sequence[str], labels: Sequence[int], seed: int
) -> dict[str, Labels]:
    rng = np.random.default_rng(seed)
    for index, (name, label) in enumerate(zip(names, labels, strict=True)):
        _save(_patch(rng, label), root / name, index)
    return {name: (label,) for name, label in zip(names, labels, strict=True)}


def _patch(rng: np.random.Generator, label: int) -> Image.Image:
    """Cut a random patch from the label's region: a quarter of one of the photographs."""
    photograph = photographs()[label % 2]
    left, upper = 320 * (label // 2 % 2), 210 * (label // 4 % 2)
    width, height = rng.integers(150, 200, size=2)
    x, y = left + rng.integers(320 - width), upper + rng.integers(210 - height)
    size = (rng.integers(48, 65), rng.integers(48, 65))
    return photograph.crop((x, y, x + width, y + height)).resize(size)


def _collage(rng: np.random.Generator, objects: Sequence[tuple[int, int]]) -> Image.Image:
    """Paste a digit for each (class, side) onto a dark part of a photograph, 128 x 112 pixels."""
    photograph = photographs()[rng.integers(2)]
    x, y = rng.integers(640 - 128), rng.integers(427 - 112)
    image = photograph.crop((x, y, x + 128, y + 112)).point(lambda value: value // 3)
    pixels, targets = _digits()
    for label, side in objects:
        digit = Image.fromarray(pixels[rng.choice(np.flatnonzero(targets == label))])
        at = (int(rng.integers(128 - side)), int(rng.integers(112 - side)))
        image.paste((255, 255, 255), at, digit.resize((side, side)))
    return image


def _some_labels(rng: np.random.Generator, index: int, classes: int) -> Labels:
    """Draw one to three labels, `index` modulo `classes` among them: all of them occur."""
    others = rng.choice(classes, size=rng.integers(3), replace=False)
    return tuple(sorted({index % classes, *others.tolist()}))


def _save(image: Image.Image, path: Path, index: int) -> None:
    """Save an image, some of them in the odd forms that the originals have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if index % 8 == 2:
        image = image.convert("L")
    if index % 8 == 4:
        image = image.convert("CMYK")
    image.save(path, format="PNG" if index % 8 == 6 else "JPEG")


def _write_devkit(folder: Path, val_wnids: Sequence[str], classes: int) -> None:
    _write_lines(
        folder / "ILSVRC2012_validation_ground_truth.txt",
        [str(WNIDS.index(wnid) + 1) for wnid in val_wnids],
    )
    leaves = [(number, wnid, 0) for number, wnid in enumerate(WNIDS[:classes], start=1)]
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    numbers = ("wordnet_height", "num_train_images")
    synsets = np.zeros((classes + 1, 1), dtype=[(field, object) for field in (*fields, *numbers)])
    inner = (1001, "n00001740", classes)
    for row, (number, wnid, children) in zip(synsets[:, 0], [*leaves, inner], strict=True):
        row["ILSVRC2012_ID"], row["WNID"], row["num_children"] = float(number), wnid, children
        row["words"], row["gloss"] = f"synset {wnid}, thing", "a thing"
        row["children"] = np.arange(1.0, children + 1)
        row["wordnet_height"], row["num_train_images"] = 0.0, 1300.0
    savemat(folder / "meta.mat", {"synsets": synsets})


def _write_coco_split(root: Path, split: str, count: int, seed: int) -> dict[str, Labels]:
    rng = np.random.default_rng(seed)
    ids = list(CATEGORIES)
    images, annotations, written = [], [], {}
    for index in range(count + 1):
        number = 9 + 16 * index
        file = f"COCO_{split}_{number:012d}.jpg"
        annotated = index != count // 2  # One in the middle has no annotation.
        labels = _some_labels(rng, index, len(ids)) if annotated else ()
        objects = [(label, SIDES[rng.integers(3)]) for label in labels]
        _save(_collage(rng, objects), root / split / file, index)
        images.append({"id": number, "file_name": file, "width": 128, "height": 112, "license": 1})
        crowd = index == count  # The last one's objects are crowds.
        annotations += [_annotation(number, ids[k], side, crowd=crowd) for k, side in objects]
        if annotated:
            written[f"{split}/{file}"] = labels
    # As published, annotations follow neither the images' order nor their own numbers.
    order = rng.permutation(len(annotations)).tolist()
    shuffled = [annotations[k] | {"id": 1000 + k} for k in order]
    document = {
        "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
        "images": images,
        "licenses": [{"id": 1, "name": "Attribution-NonCommercial License"}],
        "annotations": shuffled,
        "categories": [
            {"supercategory": "thing", "id": key, "name": name} for key, name in CATEGORIES.items()
        ],
    }
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return written


def _annotation(image: int, category: int, side: int, *, crowd: bool) -> dict[str, object]:
    square = [0.0, 0.0, side, 0.0, side, side, 0.0, side]
    outline = {"counts": [0, side * side], "size": [112, 128]} if crowd else [square]
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [0.0, 0.0, float(side), float(side)],
        "area": float(side * side),
        "iscrowd": int(crowd),
        "segmentation": outline,
    }


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
