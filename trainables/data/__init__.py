"""Datasets by name. A new one is a module with `open_dataset` and a row in `DATASETS`."""

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from trainables.data.base import ImageDataset
from trainables.data.indexed import FileDataset
from trainables.data.reading import ReadingProgress

DATASETS: dict[str, str] = {
    "imagenet": "trainables.data.imagenet",
    "nabirds": "trainables.data.nabirds",
    "coco": "trainables.data.coco",
    "nuswide": "trainables.data.nuswide",
    "folder": "trainables.data.folder",
    "digits": "trainables.data.digits",
    "digits_multi": "trainables.data.digits_multi",
}
"""Dataset -> module that opens it, imported when asked for: listing names imports none of them."""


def open_dataset(
    name: str,
    root: Path | None = None,
    index_folder: Path | None = None,
    progress: ReadingProgress | None = None,
) -> ImageDataset:
    """Open a dataset.

    Args:
        name: One of `DATASETS`.
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
    if name not in DATASETS:
        raise ValueError(f"dataset is {name!r}, but must be one of {', '.join(sorted(DATASETS))}")
    module: Any = import_module(DATASETS[name])
    return cast(ImageDataset, module.open_dataset(root, index_folder, progress))


def file_dataset(name: str) -> FileDataset | None:
    """Return how a dataset of `DATASETS` is read from its folder; None for an embedded one."""
    return getattr(import_module(DATASETS[name]), "DATASET", None)
