"""`tokensweep check-data`: report what a dataset's folder holds and every problem in it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.console import line, work_shown
from orchestrator.errors import UserError, not_one_of
from orchestrator.processes import shared_out
from trainables.data import DATASETS, file_dataset, is_dataset
from trainables.data.image_files import FileSplit, undecodable
from trainables.data.indexed import FileDataset, Index
from trainables.data.reading import Reading

IMAGES_AT_A_TIME = 256
"""Images that a process decodes between two reports."""
PARTS_A_PROCESS = 2
"""Fewest parts of that size for which a process is started."""
PROBLEMS_SHOWN = 10
"""Cases listed of each kind of problem."""
ROUNDED = 0.01
"""Allowed relative difference from published counts that are rounded to thousands."""


def check_data(name: str, root: Path, console: Console, *, download: bool = False) -> Index | None:
    """Read a dataset's folder, decode every image and print the problems.

    Args:
        name: The dataset.
        root: Its folder.
        console: Where to print.
        download: Whether to fetch it first where it is not there.

    Returns:
        What it holds, None where there is any problem. Counts that differ from published ones are
        only noted.

    Raises:
        UserError: There is no such dataset in files, no such folder, or a process died; or the
            dataset cannot be downloaded.
    """
    dataset = _dataset(name)
    if download:
        _download(dataset, root, console)
    if not root.is_dir():
        raise UserError(f"DIR is {str(root)!r}, but must be the folder of dataset {name!r}")
    line(console, f"{name} in {root}")
    with work_shown(console) as progress:
        reading = Reading(root, progress)
        try:
            index = dataset.read(reading)
        except (ValueError, OSError) as error:
            line(console, str(error), "red")
            return None
        found = _undecodable(index, progress)
    problems = reading.problems | ({"images that cannot be decoded": found} if found else {})
    console.print(_counts(index))
    for note in (*index.notes, *_unlike_published(dataset, index)):
        line(console, f"note: {note}")
    _tell(problems, console)
    return None if problems else index


def _dataset(name: str) -> FileDataset:
    in_files = [known for known in DATASETS if file_dataset(known)]
    dataset = file_dataset(name) if is_dataset(name) else None
    if dataset is None:
        raise not_one_of("DATASET", name, in_files)
    return dataset


def _download(dataset: FileDataset, root: Path, console: Console) -> None:
    if dataset.download is None:
        able = [name for name in DATASETS if (known := file_dataset(name)) and known.download]
        raise not_one_of("--download: DATASET", dataset.name, able)
    line(console, f"downloading {dataset.name} to {root}, if it is not there")
    try:
        dataset.download(root)
    except Exception as error:  # Of the network, the archive or the disk, in many types.
        why = " ".join(str(error).split())
        raise UserError(f"{dataset.name} cannot be downloaded: {why}") from error


def _undecodable(index: Index, progress: Callable[[str, int, int], None]) -> list[str]:
    """Decode every image file in several processes; describe those that cannot be decoded."""
    splits = dict.fromkeys((index.train, index.val))  # They may be the same.
    files = [split for split in splits if isinstance(split, FileSplit)]
    parts = [part for split in files for part in parts_of(split)]
    total, done, found = sum(map(len, files)), 0, []
    with closing(shared_out(undecodable, parts, "decodes images", PARTS_A_PROCESS)) as decoded:
        for part, cases in zip(parts, decoded, strict=True):
            found += cases
            done += len(part)
            progress("decoding all images", done, total)
    return found


def parts_of(split: FileSplit) -> Iterator[FileSplit]:
    """Yield a split's images, `IMAGES_AT_A_TIME` and then the rest."""
    for start in range(0, len(split), IMAGES_AT_A_TIME):
        yield split.part(slice(start, start + IMAGES_AT_A_TIME))


def _counts(index: Index) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("split", "images", "classes"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in (("train", index.train), ("val", index.val)):
        table.add_row(name, f"{len(split):,}", f"{_classes(split.targets):,}")
    return table


def _classes(targets: np.ndarray) -> int:
    """Count the classes with at least one image."""
    return len(np.unique(targets)) if targets.ndim == 1 else int(targets.any(axis=0).sum())


def _unlike_published(dataset: FileDataset, index: Index) -> Iterator[str]:
    published = dataset.published
    if published is None:
        return
    off = ROUNDED if published.rounded else 0
    about = "about " if published.rounded else ""
    for what, found, expected, allowed in (
        ("images to train on", len(index.train), published.train, off),
        ("images to evaluate on", len(index.val), published.val, off),
        ("classes", len(index.class_names), published.classes, 0),
    ):
        if abs(found - expected) > allowed * expected:
            which = about if what != "classes" else ""
            yield f"{found:,} {what}, but {which}{expected:,} were published"


def _tell(problems: Mapping[str, list[str]], console: Console) -> None:
    for kind, cases in problems.items():
        more = len(cases) - PROBLEMS_SHOWN
        shown = [*cases[:PROBLEMS_SHOWN], *([f"... and {more:,} more"] if more > 0 else [])]
        lines = "\n".join([f"{len(cases):,} {kind}:", *(f"  {case}" for case in shown)])
        line(console, lines, "red")
    if not problems:
        line(console, "no problems found", "green")
