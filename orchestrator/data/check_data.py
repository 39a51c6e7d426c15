"""`tokensweep check-data`: what a dataset's folder holds, and all that is wrong with it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.data.datasets import work_shown
from orchestrator.errors import UserError, not_one_of
from orchestrator.processes import shared_out
from trainables.data import DATASETS, file_dataset
from trainables.data.image_files import FileSplit, undecodable
from trainables.data.indexed import FileDataset, Index
from trainables.data.reading import Reading

IMAGES_AT_A_TIME = 256
"""Images that a process decodes before it tells of them."""
PARTS_A_PROCESS = 2
"""Fewest parts of as many images that are worth starting a process."""
CASES_SHOWN = 10
"""Cases of each kind of problem that are named."""
ROUNDED = 0.01
"""Relative difference by which published counts in round thousands may be off."""


def check_data(name: str, root: Path, console: Console) -> bool:
    """Read a dataset's folder, decode every image and tell what is wrong.

    Args:
        name: The dataset.
        root: Its folder.
        console: Where to tell it.

    Returns:
        Whether nothing is wrong. Other counts than the published ones are noted, not wrong.

    Raises:
        UserError: There is no such dataset in files or no such folder, or the check itself broke.
    """
    dataset = _dataset(name)
    if not root.is_dir():
        raise UserError(f"DIR is {str(root)!r}, but must be the folder of dataset {name!r}")
    console.print(f"{name} in {root}", markup=False, highlight=False, soft_wrap=True)
    with work_shown(console) as progress:
        reading = Reading(root, progress)
        try:
            index = dataset.read(reading)
        except (ValueError, OSError) as error:
            console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            return False
        found = _undecodable(index, progress)
    problems = reading.problems | ({"images that cannot be decoded": found} if found else {})
    console.print(_counts(index))
    for note in _unlike_published(dataset, index):
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    _tell(problems, console)
    return not problems


def _dataset(name: str) -> FileDataset:
    in_files = [known for known in DATASETS if file_dataset(known)]
    dataset = file_dataset(name) if name in DATASETS else None
    if dataset is None:
        raise not_one_of("DATASET", name, in_files)
    return dataset


def _undecodable(index: Index, progress: Callable[[str, int, int], None]) -> list[str]:
    """Decode every image, several at a time; return what is said of those that cannot be."""
    parts = [part for split in (index.train, index.val) for part in _parts(split)]
    total, done, found = len(index.train) + len(index.val), 0, []
    with closing(shared_out(undecodable, parts, "decodes images", PARTS_A_PROCESS)) as decoded:
        for part, cases in zip(parts, decoded, strict=True):
            found += cases
            done += len(part)
            progress("decoding all images", done, total)
    return found


def _parts(split: FileSplit) -> Iterator[FileSplit]:
    for start in range(0, len(split), IMAGES_AT_A_TIME):
        chosen = slice(start, start + IMAGES_AT_A_TIME)
        yield FileSplit(split.targets[chosen], split.root, split.names[chosen])


def _counts(index: Index) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("split", "images", "classes"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in (("train", index.train), ("val", index.val)):
        table.add_row(name, f"{len(split):,}", f"{_classes(split.targets):,}")
    return table


def _classes(targets: np.ndarray) -> int:
    """Count the classes that have an image."""
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
        more = len(cases) - CASES_SHOWN
        shown = [*cases[:CASES_SHOWN], *([f"... and {more:,} more"] if more > 0 else [])]
        lines = "\n".join([f"{len(cases):,} {kind}:", *(f"  {case}" for case in shown)])
        console.print(lines, style="red", markup=False, highlight=False, soft_wrap=True)
    if not problems:
        console.print("nothing is wrong", style="green")
