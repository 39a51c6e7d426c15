"""Any classification dataset laid out as `train/<class>/*` and `val/<class>/*`."""

from pathlib import Path

import numpy as np

from trainables.data.base import ImageDataset
from trainables.data.image_files import FileSplit

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""In lower case; files may have them in any case. Files with other suffixes are not images."""


def open_dataset(root: Path | None) -> ImageDataset:
    """Open the folder `root`; the classes are the folders in `root/train`, sorted by name.

    Raises:
        ValueError: If no folder is given, there are no classes, `val` has classes that `train`
            has not, or the folders of some classes hold no image.
        FileNotFoundError: If `root`, `train` or `val` is missing.
    """
    if root is None:
        raise ValueError("dataset 'folder' needs a folder with train/ and val/, but none is given")
    class_names = _class_folders(root / "train")
    unknown = sorted(set(_class_folders(root / "val")) - set(class_names))
    if unknown:
        raise ValueError(f"{root / 'val'} has classes that train/ has not: {', '.join(unknown)}")
    train, val = (_open_split(root / part, class_names) for part in ("train", "val"))
    return ImageDataset("folder", "single_label", tuple(class_names), train, val)


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} is missing")
    names = sorted(entry.name for entry in folder.iterdir() if _is_class_folder(entry))
    if not names:
        raise ValueError(f"{folder} has no folder, but must have one for each class")
    return names


def _is_class_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _open_split(folder: Path, class_names: list[str]) -> FileSplit:
    present = [name for name in class_names if (folder / name).is_dir()]
    images = {name: _image_names(folder / name) for name in present}
    empty = [str(folder / name) for name in present if not images[name]]
    if empty:
        raise ValueError(
            f"no image in {', '.join(empty)}; each class folder must have at least one"
        )
    counts = [len(images.get(name, [])) for name in class_names]
    targets = np.repeat(np.arange(len(class_names)), counts)
    return FileSplit(
        targets, folder, [f"{name}/{file}" for name in present for file in images[name]]
    )


def _image_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if _is_image(entry))


def _is_image(entry: Path) -> bool:
    return entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
