"""Patience with a storage that fails for a while: what fails is tried again, in a bounded time."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.filesize import decimal

if TYPE_CHECKING:
    from trainables.store_path import StorePath

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
"""How long a file operation is tried again, from its first failure on."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 15.0
"""Seconds between two tries: each pause is twice the one before."""

ANSWERS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
"""Errors that tell what there is: trying again would change nothing."""
FULL = (errno.ENOSPC, errno.EDQUOT)

Tell = Callable[[str], None]


class StorageError(OSError):
    """The storage has failed for longer than there was patience; the message says what to do."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full

    def __reduce__(self) -> tuple[Callable[..., "StorageError"], tuple[str, bool]]:
        return _storage_error, (str(self), self.full)


_patience: ContextVar[tuple[float, Tell] | None] = ContextVar("patience", default=None)


@contextmanager
def patience(tell: Tell | None = None, seconds: float | None = None) -> Iterator[None]:
    """Have `patiently` try again for the duration of the context, in this thread.

    Args:
        tell: Told in a line when the storage fails, and when it works again: once each time.
        seconds: How long to try; `PATIENCE_SECONDS` if not given.
    """
    granted = (PATIENCE_SECONDS if seconds is None else seconds, tell or (lambda words: None))
    token = _patience.set(granted)
    try:
        yield
    finally:
        _patience.reset(token)


def patiently(operation: Callable[[], T], path: "StorePath") -> T:
    """Return what a file operation returns, trying it again if it fails and there is patience.

    Raises:
        StorageError: It failed for too long.
        OSError: It failed, and there is no patience or trying again would change nothing.
    """
    granted = _patience.get()
    if granted is None:
        return operation()
    seconds, tell = granted
    started, pause = time.monotonic(), 0.0
    while isinstance(answer := _answer(operation), OSError):
        waited = time.monotonic() - started
        if waited >= seconds:
            raise _given_up(path, answer, waited) from answer
        if not pause:
            tell(f"waiting for the storage, up to {seconds:g} s: {_reason(path, answer)}")
        pause = min(2 * pause or SHORTEST_PAUSE, LONGEST_PAUSE)
        time.sleep(min(pause, seconds - waited))
    if pause:
        tell(f"the storage works again after {time.monotonic() - started:.0f} s")
    return answer


def _answer(operation: Callable[[], T]) -> T | OSError:
    """Return what the operation returns, or the error if trying again may help."""
    try:
        return operation()
    except (*ANSWERS, StorageError):
        raise
    except OSError as error:
        return error


def _given_up(path: "StorePath", error: OSError, waited: float) -> StorageError:
    full = error.errno in FULL
    todo = "free some space" if full else "mend that"
    return StorageError(
        f"the storage has failed for {waited:.0f} s: {_reason(path, error)}; "
        f"{todo} and launch the study again: it goes on from what was saved",
        full=full,
    )


def _reason(path: "StorePath", error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno not in FULL or not isinstance(path, Path):
        return f"{path}: {reason}"
    return f"{path}: {reason}: {space_left(path)}"


def space_left(path: Path) -> str:
    """Return how much is free on the file system of a path that may not exist yet, in words."""
    path = path.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    mount = next(f for f in (existing, *existing.parents) if os.path.ismount(f))
    usage = shutil.disk_usage(existing)
    return f"{mount} has {decimal(usage.free)} of {decimal(usage.total)} free"


def _storage_error(reason: str, full: bool) -> StorageError:
    return StorageError(reason, full=full)
