"""Datasets by name. A new one is a module with `open_dataset` and a row in `DATASETS`."""

from importlib import import_module
from pathlib import Path
from typing import cast

from trainables.data.base import ImageDataset

DATASETS: dict[str, str] = {
    "digits": "trainables.data.digits",
    "digits_multi": "trainables.data.digits_multi",
    "folder": "trainables.data.folder",
}
"""Dataset -> module that opens it, imported when asked for: listing names imports none of them."""


def open_dataset(name: str, root: Path | None = None) -> ImageDataset:
    """Open a dataset.

    Args:
        name: One of `DATASETS`.
        root: The dataset's own folder (the one that holds `train/` and `val/`); embedded
            datasets have none and ignore it.

    Raises:
        ValueError: If the name is unknown, a folder is needed and none is given, or the folder's
            content is not as published.
        FileNotFoundError: If the folder or a file in it is missing; the message names it.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset is {name!r}, but must be one of {', '.join(sorted(DATASETS))}")
    return cast(ImageDataset, import_module(DATASETS[name]).open_dataset(root))
