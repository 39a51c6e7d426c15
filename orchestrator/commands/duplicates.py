"""Images of a dataset that are the same: copies of a file, or other files of the same pixels."""

from collections.abc import Callable
from contextlib import closing
from itertools import chain
from typing import NamedTuple

from orchestrator.commands.check_data import PARTS_A_PROCESS, parts_of
from orchestrator.processes import shared_out
from trainables.data.image_files import FileSplit, pixel_digests
from trainables.data.indexed import Index


class Duplicates(NamedTuple):
    """Images that are the same as an earlier one, training images being the earlier ones."""

    all: list[tuple[str, str]]
    """The name of each, and that of the first one like it."""
    trained_on: list[tuple[str, str]]
    """Of these, evaluation images that are the same as a training image."""


def find_duplicates(index: Index, progress: Callable[[str, int, int], None]) -> Duplicates:
    """Decode all images in several processes, and compare their pixels.

    Args:
        index: What a dataset's folder holds; its images can be decoded.
        progress: Told what is done, how many images are, and how many there are.
    """
    # All images of features are one split.
    splits = [s for s in dict.fromkeys((index.train, index.val)) if isinstance(s, FileSplit)]
    parts = [part for split in splits for part in parts_of(split)]
    total, digests = sum(map(len, splits)), list[bytes]()
    with closing(shared_out(pixel_digests, parts, "reads images", PARTS_A_PROCESS)) as found:
        for of_part in found:
            digests += of_part
            progress("comparing all images", len(digests), total)
    names = chain.from_iterable(map(split.name, range(len(split))) for split in splits)
    first: dict[bytes, tuple[int, str]] = {}
    same = Duplicates([], [])
    for place, (name, digest) in enumerate(zip(names, digests, strict=True)):
        earlier, like = first.setdefault(digest, (place, name))
        if earlier == place:
            continue
        same.all.append((name, like))
        if earlier < len(splits[0]) <= place:
            same.trained_on.append((name, like))
    return same


def in_words(same: Duplicates) -> list[str]:
    """Return a line on images that are the same; none where there are none."""
    if same.trained_on:
        name, like = same.trained_on[0]
        return [
            f"note: {len(same.trained_on):,} of the images to evaluate on have the pixels of one "
            f"to train on ({name} those of {like}), so accuracy would be too high; "
            f"{len(same.all):,} images in all are the same as another"
        ]
    if same.all:
        name, like = same.all[0]
        return [
            f"note: {len(same.all):,} images have the pixels of another ({name} those of {like}), "
            "so they are not independent"
        ]
    return []
