"""Reading the folder of a dataset: its lists, its files, and all that is wrong with them."""

import codecs
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

LISTING_THREADS = 16
"""Folders listed at once: on network storage, listing is waiting."""

ReadingProgress = Callable[[str, int, int], None]
"""Told what is read, how many of its parts are done, and how many there are."""

Problems = dict[str, list[str]]
"""What is wrong with a dataset, or notable: kind -> a word on each case."""

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark, as Windows editors write it -> the encoding that reads it."""
LINE_END = re.compile("\r\n|\n|\r")
"""What ends a line. `str.splitlines` also splits at separators that names may contain."""

T = TypeVar("T")

FileStamp = tuple[int, int]
"""When a file or folder was last changed, in nanoseconds, and its size in bytes."""


MISSING: FileStamp = (-1, -1)
"""Stamp of what is not there."""


def file_stamp(path: Path) -> FileStamp:
    """Return the stamp of a file or folder, `MISSING` where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return MISSING
    return status.st_mtime_ns, status.st_size


class Reading:
    """One pass over a dataset's folder.

    What makes the dataset unreadable is raised. What is wrong with some of its images is
    collected, so that all of it can be reported at once.

    Args:
        root: The dataset's folder.
        progress: Told how far the reading is.

    Attributes:
        problems: What is wrong so far; no training starts while there is anything.
        notes: What was left out and does not stop a training.
        sources: Stamp of every file and folder read, by its path relative to `root`, taken before
            it was read.
    """

    def __init__(self, root: Path, progress: ReadingProgress | None = None) -> None:
        self.root = root
        self.problems: Problems = {}
        self.notes: Problems = {}
        self.sources: dict[str, FileStamp] = {}
        self._progress = progress or (lambda what, done, total: None)

    def problem(self, kind: str, case: str) -> None:
        """Note one more case of a kind of problem, such as ("missing images", its path)."""
        self.problems.setdefault(kind, []).append(case)

    def note(self, kind: str, case: str) -> None:
        """Note one more case of what is left out, such as ("images listed twice", its path)."""
        self.notes.setdefault(kind, []).append(case)

    def has(self, name: str) -> bool:
        """Tell whether a file is there that a dataset need not have."""
        self.sources[name] = file_stamp(self.root / name)
        return self.sources[name] != MISSING

    def data(self, name: str, content: str) -> bytes:
        """Return what a file of the dataset holds.

        Args:
            name: Path relative to `root`.
            content: What the file is for, to be told where it is missing.

        Raises:
            FileNotFoundError: There is no such file.
        """
        path = self.root / name
        if not path.is_file():
            raise FileNotFoundError(f"file {path} is missing: it holds {content}")
        self.sources[name] = file_stamp(path)
        self._progress(f"reading {self.root}", 0, 1)
        return path.read_bytes()

    def text(self, name: str, content: str) -> str:
        """Return a text file of the dataset, in UTF-8 or as its byte order mark says.

        Raises:
            FileNotFoundError: There is no such file.
        """
        data = self.data(name, content)
        encoding = next((MARKS[mark] for mark in MARKS if data.startswith(mark)), "utf-8")
        return data.decode(encoding, errors="surrogateescape")

    def lines(self, name: str, content: str) -> list[tuple[int, str]]:
        """Return the lines of a text file that are not empty, with their numbers from 1."""
        lines = LINE_END.split(self.text(name, content))
        return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def folder(self, name: str) -> Path:
        """Return the path of a folder of the dataset.

        Raises:
            FileNotFoundError: There is no such folder.
        """
        path = self.root / name
        if not path.is_dir():
            raise FileNotFoundError(f"folder {path} is missing")
        self.sources[name] = file_stamp(path)
        return path

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in a folder, sorted, without hidden ones.

        Raises:
            FileNotFoundError: There is no such folder.
        """
        return sorted(entry.name for entry in self._scan(name) if entry.is_dir())

    def files(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """Return the names of the files in each of several folders, sorted, without hidden ones.

        Raises:
            FileNotFoundError: One of the folders is missing.
        """
        found: dict[str, list[str]] = {}
        with ThreadPoolExecutor(LISTING_THREADS) as threads:
            for folder, files in zip(folders, threads.map(self._files, folders), strict=True):
                found[folder] = files
                self._progress(f"reading {self.root}", len(found), len(folders))
        return found

    def files_below(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """Return the paths of the files at any depth of several folders, without hidden ones.

        Args:
            folders: Paths relative to `root`.

        Returns:
            Folder -> paths relative to that folder, sorted.

        Raises:
            FileNotFoundError: One of the folders is missing.
        """
        found: dict[str, list[str]] = {}
        with ThreadPoolExecutor(LISTING_THREADS) as threads:
            for folder, files in zip(folders, threads.map(self._below, folders), strict=True):
                found[folder] = sorted(files)
                self._progress(f"reading {self.root}", len(found), len(folders))
        return found

    def present(self, names: Sequence[str]) -> list[bool]:
        """Tell which of the images exist, and note those that are missing.

        Args:
            names: Paths relative to `root`.
        """
        folders = {os.path.dirname(name) for name in names}
        existing = sorted(folder for folder in folders if (self.root / folder).is_dir())
        files = {folder: set(found) for folder, found in self.files(existing).items()}
        here = [os.path.basename(name) in files.get(os.path.dirname(name), ()) for name in names]
        for name, exists in zip(names, here, strict=True):
            if not exists:
                self.problem("missing images", name)
        return here

    def _below(self, folder: str, above: frozenset[str] = frozenset()) -> list[str]:
        place = os.path.realpath(self.root / folder)
        if place in above:  # A link to a folder that it lies in.
            return []
        files: list[str] = []
        for entry in self._scan(folder):
            if entry.is_dir():
                inner = self._below(f"{folder}/{entry.name}", above | {place})
                files += [f"{entry.name}/{name}" for name in inner]
            else:
                files.append(entry.name)
        return files

    def _files(self, folder: str) -> list[str]:
        return sorted(entry.name for entry in self._scan(folder) if not entry.is_dir())

    def _scan(self, name: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.folder(name)) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))


def listed_once(
    reading: Reading,
    images: Sequence[T],
    file: Callable[[T], str],
    evaluates: Callable[[T], bool] = lambda image: False,
) -> list[T]:
    """Return the images without repeats, and note those.

    An image listed for training and for evaluation stays in the evaluation, so that its numbers
    compare with published ones.

    Args:
        reading: Takes the notes.
        images: As listed.
        file: Returns the path that tells images apart.
        evaluates: Tells whether an image is listed for evaluation.
    """
    chosen: dict[str, T] = {}
    for image in images:
        name = file(image)
        if name not in chosen:
            chosen[name] = image
        elif evaluates(image) and not evaluates(chosen[name]):
            reading.note("images listed for training and evaluation, used in evaluation", name)
            chosen[name] = image
        elif evaluates(image) != evaluates(chosen[name]):
            reading.note("images listed for training and evaluation, used in evaluation", name)
        else:
            reading.note("images listed twice, used once", name)
    return list(chosen.values())
