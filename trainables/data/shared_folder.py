"""A folder of the node in which processes leave batches for each other.

NAME.batch    the tensors of a batch, in safetensors' format; renamed into place when it is whole
.NAME.PID     a batch that is being written
users         locked (flock, shared) by everyone who uses the folder
claims        locked byte by byte (fcntl) by those who make a batch: its name stands for a byte

Both kinds of lock end with the process that holds them, however that ends. Whoever finds the
folder in nobody else's use, coming or leaving, empties it: batches never outlive their users.
"""

import fcntl
import hashlib
import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from trainables.data.cache_file import cache_folder

Batch = list[Tensor]

MEMORY = Path("/dev/shm")  # noqa: S108 - what is below it is in a folder of the user's own
LITTLE_MEMORY = 2**30
"""Bytes of `MEMORY` with which it is not used: containers often have 64 MB of it."""
MOST_BYTES = 4 * 2**30
MOST_SHARE = 1 / 8
"""Of the file system's size."""
USERS, CLAIMS, SUFFIX = "users", "claims", ".batch"


def shared_folder() -> Path:
    """Return where this node keeps shared batches: in memory, else below the image caches."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).total >= LITTLE_MEMORY:
        return MEMORY / f"tokensweep-{os.getuid()}"
    return cache_folder() / "batches"


class SharedFolder:
    """Batches by name, put down and taken by all processes of a node.

    Args:
        path: The folder; made if it is missing.
        most: Bytes that all batches in it may have together, the oldest making room; what is
            being written at the moment may come on top. None stands for `MOST_BYTES`, or
            `MOST_SHARE` of the file system where that is less.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.most = most or min(MOST_BYTES, int(shutil.disk_usage(path).total * MOST_SHARE))
        self._claims = (path / CLAIMS).open("a")
        users = (path / USERS).open("a")
        _enter(path, users)
        weakref.finalize(self, _leave, path, users, self._claims, os.getpid())

    def __reduce__(self) -> tuple[type["SharedFolder"], tuple[Path, int]]:
        return SharedFolder, (self.path, self.most)  # A process that was not forked has no locks.

    def has(self, name: str) -> bool:
        """Tell whether a batch is there."""
        return self._file(name).exists()

    def read(self, name: str) -> Batch | None:
        """Return a copy of a batch; None where it is not there, or not whole."""
        file = self._file(name)
        try:
            return [_copy(tensor) for _, tensor in sorted(load_file(file).items())]
        except FileNotFoundError:
            return None
        except SafetensorError:
            file.unlink(missing_ok=True)
            return None

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Tell whether this process may make a batch: nobody else may while the context lasts."""
        # A lock of flock would live on in the processes that this one has forked.
        byte = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, byte)

    def publish(self, name: str, batch: Sequence[Tensor]) -> bool:
        """Put a batch down; tell whether there was room."""
        size = nbytes(batch)
        if size > self.most // 2:
            return False
        aside = self.path / f".{name}.{os.getpid()}"
        try:
            self._make_room(size)
            save_file({str(place): tensor for place, tensor in enumerate(batch)}, aside)
            aside.rename(self._file(name))
        except (OSError, SafetensorError):  # The disk is full, or somebody has removed the folder.
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            return False
        return True

    def _make_room(self, size: int) -> None:
        """Remove the oldest batches, such as are half written included, until `size` bytes fit."""
        files = sorted(_files(self.path), key=lambda found: found[1].st_mtime_ns)
        held = sum(status.st_size for _, status in files)
        for file, status in files:
            if held + size <= self.most:
                break
            file.unlink(missing_ok=True)
            held -= status.st_size

    def _file(self, name: str) -> Path:
        return self.path / f"{name}{SUFFIX}"


def _copy(mapped: Tensor) -> Tensor:
    """Copy a tensor out of a file, to where its memory begins as any tensor's: sums depend on it.

    What a loader's process copies goes at once where the training process can take it from.
    """
    copy: Tensor = default_collate([mapped])[0] if get_worker_info() else mapped.clone()
    return copy


def nbytes(batch: Sequence[Tensor]) -> int:
    """Return the bytes of a batch."""
    return sum(tensor.nbytes for tensor in batch)


def _files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for file in path.iterdir():
        if file.name not in (USERS, CLAIMS):
            with suppress(FileNotFoundError):
                yield file, file.stat()


def _enter(path: Path, users: IO[str]) -> None:
    """Note that the folder is in use; empty it if it was not."""
    with suppress(BlockingIOError):
        _empty_unless_used(path, users)
    # Refused only while somebody empties it. Then others may take it for unused, and what this
    # process leaves there can be lost to it: no more than that.
    with suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _leave(path: Path, users: IO[str], claims: IO[str], process: int) -> None:
    """Give up the locks; empty the folder if nobody else uses it."""
    if os.getpid() == process:  # Forked processes share the lock, and go before it does.
        with suppress(OSError):
            _empty_unless_used(path, users)
    users.close()
    claims.close()


def _empty_unless_used(path: Path, users: IO[str]) -> None:
    """Empty the folder; raises BlockingIOError where others use it."""
    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for file, _ in _files(path):
        file.unlink(missing_ok=True)
