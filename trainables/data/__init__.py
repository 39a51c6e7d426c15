"""Datasets by name. A new one is a module and a row in `DATASETS`.

The module has `DATASET`, where its images are in files, or `FAMILY` with several of these by name.
That of an embedded dataset has `open_dataset`.
"""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from trainables.data.base import ImageDataset
from trainables.data.indexed import FileDataset
from trainables.data.reading import ReadingProgress

TORCHVISION = (
    "aircraft", "cifar10", "cifar100", "country211", "dtd", "eurosat", "fashion_mnist",
    "flowers102", "food101", "gtsrb", "imagenette", "mnist", "pets", "stl10", "svhn",
)  # fmt: skip
DATASETS: dict[str, str] = {
    "imagenet": "trainables.data.imagenet",
    "nabirds": "trainables.data.nabirds",
    "coco": "trainables.data.coco",
    "nuswide": "trainables.data.nuswide",
    "folder": "trainables.data.folder",
    "tar": "trainables.data.tar_archives",
    "hf": "trainables.data.hugging_face",
    "images": "trainables.data.feature_images",
    **dict.fromkeys(TORCHVISION, "trainables.data.torchvision_sets"),
    "digits": "trainables.data.digits",
    "digits_multi": "trainables.data.digits_multi",
    "digits_scenes": "trainables.data.digits_scenes",
}
"""Dataset -> module that opens it, imported when asked for: listing names imports none of them."""
NAMED = ("folder", "tar", "hf", "images")
"""Datasets of which there are many: `folder.birds` is one, so that its cells are not another's."""


def is_dataset(name: str) -> bool:
    """Tell whether a name is one of `DATASETS`, or one of `NAMED` with a name of its own."""
    kind, _, own = name.partition(".")
    return name in DATASETS or bool(own and kind in NAMED)


def open_dataset(
    name: str,
    root: Path | None = None,
    index_folder: Path | None = None,
    progress: ReadingProgress | None = None,
) -> ImageDataset:
    """Open a dataset.

    Args:
        name: One of `DATASETS`, or one of `NAMED`, a dot and a name of its own.
        root: The dataset's own folder (the one that holds `train/` and `val/`); embedded
            datasets have none and ignore it.
        index_folder: Where indices of datasets in files are kept: with one, a dataset whose files
            and folders have not changed is open at once. None keeps no index.
        progress: Told how far the reading of the dataset's folder is.

    Raises:
        ValueError: If the name is unknown, a folder is needed and none is given, or the folder's
            content is not as published.
        FileNotFoundError: If the folder or a file in it is missing; the message names it.
    """
    if not is_dataset(name):
        raise ValueError(f"dataset is {name!r}, but must be one of {', '.join(sorted(DATASETS))}")
    if in_files := file_dataset(name):
        return in_files.open(root, index_folder, progress)
    module: Any = import_module(DATASETS[name])
    return cast(ImageDataset, module.open_dataset())


def file_dataset(name: str) -> FileDataset | None:
    """Return how a dataset is read from its folder; None for an embedded one."""
    kind, _, own = name.partition(".")
    module = import_module(DATASETS[kind])
    family: dict[str, FileDataset] = getattr(module, "FAMILY", {})
    dataset = family.get(kind) or getattr(module, "DATASET", None)
    return replace(dataset, name=name) if dataset and own else dataset
