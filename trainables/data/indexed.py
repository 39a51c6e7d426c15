"""Datasets in files: opened by reading their folder, or from an index of it that is kept.

Reading ImageNet means to list a thousand folders and more than a million files, reading COCO to
parse half a gigabyte of JSON. The outcome is kept in an index, one file a dataset, which holds
the stamps of all files and folders that were read: it counts as long as none of them changes.
"""

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainables.data.base import ImageDataset, LabelledSplit, PixelSplit, Task
from trainables.data.image_files import FileSplit, PackedSplit
from trainables.data.reading import Reading, ReadingProgress, file_stamp
from trainables.data.units import read_units
from trainables.storage.files import DamagedFileError, digest, write_atomic

INDEX_LAYOUT = 3
"""Version of the arrays in an index; others are not read."""
SEAL_BYTES = 64
"""An index begins with the SHA-256 of what follows, in hexadecimal."""
CASES_SHOWN = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """What the folder of a dataset comes to."""

    class_names: tuple[str, ...]
    train: LabelledSplit
    val: LabelledSplit
    notes: tuple[str, ...] = ()
    """What was left out, in words."""
    units: np.ndarray | None = None
    """Of the evaluation images, see `ImageDataset.units`."""


@dataclass(frozen=True)
class PublishedCounts:
    """How many images and classes a dataset was published with."""

    train: int
    val: int
    classes: int
    rounded: bool = False
    """Whether the numbers of images are published in round thousands only."""


@dataclass(frozen=True)
class FileDataset:
    """A dataset in files."""

    name: str
    task: Task
    read_index: Callable[[Reading], Index]
    """Reads the folder, see `read`."""
    published: PublishedCounts | None = None
    download: Callable[[Path], None] | None = None
    """Fetches it into a folder where nothing of it is there; None: somebody has to."""

    def open(
        self,
        root: Path | None,
        index_folder: Path | None = None,
        progress: ReadingProgress | None = None,
    ) -> ImageDataset:
        """Open the dataset; see `trainables.data.open_dataset`."""
        if root is None:
            raise ValueError(f"dataset {self.name!r} needs a folder, but none is given")
        if not root.is_dir():
            raise FileNotFoundError(f"folder {root} of dataset {self.name!r} is missing")
        kept = index_folder / self._index_name(root) if index_folder else None
        index = _load(kept, root) if kept else None
        if index is None:
            index = self._read_whole(root, kept, progress)
        facts = index.class_names, index.train, index.val, index.notes, index.units
        return ImageDataset(self.name, self.task, *facts)

    def read(self, reading: Reading) -> Index:
        """Read what can be used of the dataset's folder; the rest are problems of the reading.

        Raises:
            ValueError: A file that all depends on is damaged.
            FileNotFoundError: Such a file or folder is missing.
        """
        index = self.read_index(reading)
        for part, split in (("training", index.train), ("evaluation", index.val)):
            if not len(split):
                reading.problem("splits without an image", part)
        units = read_units(reading, index.val) if isinstance(index.val, FileSplit) else None
        notes = tuple(describe(*each) for each in reading.notes.items())
        return replace(index, notes=notes, units=units)

    def as_published(self) -> ImageDataset | None:
        """Return a dataset without images that has the published numbers; None without these."""
        if self.published is None:
            return None
        none = np.empty((0, 0, 0), dtype=np.uint8)
        train, val = (
            PixelSplit(np.zeros(count, dtype=np.int64), none)
            for count in (self.published.train, self.published.val)
        )
        names = tuple(f"class {number}" for number in range(self.published.classes))
        return ImageDataset(self.name, self.task, names, train, val)

    def _read_whole(self, root: Path, kept: Path | None, progress: ReadingProgress | None) -> Index:
        """Read the folder, keep the index, and raise ValueError where there is any problem."""
        reading = Reading(root, progress)
        index = self.read(reading)
        if reading.problems:
            told = "; ".join(describe(kind, cases) for kind, cases in reading.problems.items())
            raise ValueError(f"dataset {self.name!r} in {root} has {told}")
        if kept:
            _keep(index, reading, kept)
        return index

    def _index_name(self, root: Path) -> str:
        # Nodes may have copies of their own under one path: the inode tells them apart, which a
        # network file system shows alike on all nodes.
        place = f"{root.resolve()} {root.stat().st_ino}"
        return f"{self.name}-{digest(place.encode())[:8]}.index"


def describe(kind: str, cases: list[str]) -> str:
    """Return how many cases of a problem there are, and the first few."""
    more = ", ..." if len(cases) > CASES_SHOWN else ""
    return f"{len(cases):,} {kind} ({', '.join(cases[:CASES_SHOWN])}{more})"


def _keep(index: Index, reading: Reading, path: Path) -> None:
    """Write an index, if that is possible: without it, things only take longer."""
    if not (isinstance(index.train, FileSplit) and isinstance(index.val, FileSplit)):
        return  # What is in memory is in few files: reading them is opening them.
    sources, stamps = zip(*sorted(reading.sources.items()), strict=True)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        layout=np.array(INDEX_LAYOUT),
        root=np.array(str(reading.root.resolve())),
        sources=np.array(sources),
        stamps=np.array(stamps),
        class_names=np.array(index.class_names),
        notes=np.array(index.notes, dtype=str),
        train_places=_places(index.train),
        val_places=_places(index.val),
        train_names=index.train.names,
        train_targets=index.train.targets,
        val_names=index.val.names,
        val_targets=index.val.targets,
        units=np.array([]) if index.units is None else index.units,
    )
    content = buffer.getvalue()
    try:
        write_atomic(path, digest(content).encode() + content)
    except OSError as error:
        _log.warning("the index of %s cannot be kept: %s", reading.root, error)


def refusal(path: Path) -> str | None:
    """Return why no dataset would be opened from an index, None if one may be."""
    try:
        arrays = _arrays(path)
    except (DamagedFileError, OSError):
        return "damaged"
    if arrays["layout"] != INDEX_LAYOUT:
        return "made by another version"
    root = str(arrays.get("root", "."))  # Indices of before do not tell.
    return None if Path(root).is_dir() else f"{root} is gone"


def _load(path: Path, root: Path) -> Index | None:
    """Return a kept index, None where it cannot be read or `root` has changed."""
    try:
        arrays = _arrays(path)
    except OSError:
        return None
    except DamagedFileError as error:
        _log.warning("%s; the dataset is read again", error)
        return None
    if arrays["layout"] != INDEX_LAYOUT or not _unchanged(
        root, arrays["sources"], arrays["stamps"]
    ):
        return None
    train, val = (_split(arrays, part, root) for part in ("train", "val"))
    class_names, notes = (tuple(arrays[name].tolist()) for name in ("class_names", "notes"))
    units = arrays["units"]
    return Index(class_names, train, val, notes, units if len(units) else None)


def _places(split: FileSplit) -> np.ndarray:
    return split.places if isinstance(split, PackedSplit) else np.array([], dtype=np.int64)


def _split(arrays: dict[str, np.ndarray], part: str, root: Path) -> FileSplit:
    targets, names = arrays[f"{part}_targets"], arrays[f"{part}_names"]
    places = arrays.get(f"{part}_places")  # Indices of before have none.
    if places is None or not len(places):
        return FileSplit(targets, root, names)
    return PackedSplit(targets, root, names, places)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    seal, content = content[:SEAL_BYTES], content[SEAL_BYTES:]
    if seal != digest(content).encode():
        raise DamagedFileError(path, "its content does not match its seal")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _unchanged(root: Path, sources: np.ndarray, stamps: np.ndarray) -> bool:
    now = [file_stamp(root / source) for source in sources.tolist()]
    return bool((np.array(now) == stamps).all())
