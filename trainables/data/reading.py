"""Reading the folder of a dataset: its lists, its files, and all that is wrong with them."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LISTING_THREADS = 16
"""Folders listed at once: on network storage, listing is waiting."""

ReadingProgress = Callable[[str, int, int], None]
"""Told what is read, how many of its parts are done, and how many there are."""

Problems = dict[str, list[str]]
"""What is wrong with a dataset: kind of problem -> a word on each case."""

Stamp = tuple[int, int]
"""When a file or folder was last changed, in nanoseconds, and its size in bytes."""


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file or folder; raises FileNotFoundError."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


class Reading:
    """One pass over a dataset's folder.

    What makes the dataset unreadable is raised; what is wrong with some of its images is noted,
    so that all of it can be told.

    Args:
        root: The dataset's folder.
        progress: Told how far the reading is.

    Attributes:
        problems: What is wrong so far.
        sources: Stamp of every file and folder read, by its path relative to `root`, taken before
            it was read.
    """

    def __init__(self, root: Path, progress: ReadingProgress | None = None) -> None:
        self.root = root
        self.problems: Problems = {}
        self.sources: dict[str, Stamp] = {}
        self._progress = progress or (lambda what, done, total: None)

    def problem(self, kind: str, case: str) -> None:
        """Note one more case of a kind of problem, such as ("missing images", its path)."""
        self.problems.setdefault(kind, []).append(case)

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
        self.sources[name] = stamp(path)
        self._progress(f"reading {self.root}", 0, 1)
        return path.read_bytes()

    def lines(self, name: str, content: str) -> list[tuple[int, str]]:
        """Return the lines of a text file that are not empty, with their numbers from 1."""
        text = self.data(name, content).decode(errors="surrogateescape")
        return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]

    def folder(self, name: str) -> Path:
        """Return the path of a folder of the dataset.

        Raises:
            FileNotFoundError: There is no such folder.
        """
        path = self.root / name
        if not path.is_dir():
            raise FileNotFoundError(f"folder {path} is missing")
        self.sources[name] = stamp(path)
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

    def _files(self, folder: str) -> list[str]:
        return sorted(entry.name for entry in self._scan(folder) if not entry.is_dir())

    def _scan(self, name: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.folder(name)) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
