"""Retries for a storage that fails for a while, in a bounded time."""

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
    from trainables.storage.paths import StorePath

T = TypeVar("T")

RETRY_SECONDS = 300.0
"""How long a file operation is retried, counted from its first failure."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 15.0
"""Seconds between two tries; each pause is twice the previous one."""

DEFINITE_ERRORS = (
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    FileExistsError,
    PermissionError,
)
"""Errors that say what exists and who may use it; retrying would change nothing."""
FULL = (errno.ENOSPC, errno.EDQUOT)

Tell = Callable[[str], None]


class StorageError(OSError):
    """The storage failed for longer than the time allowed; the message says what to do."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full

    def __reduce__(self) -> tuple[Callable[..., "StorageError"], tuple[str, bool]]:
        return _storage_error, (str(self), self.full)


_patience: ContextVar[tuple[float, Tell] | None] = ContextVar("patience", default=None)


@contextmanager
def patience(tell: Tell | None = None, seconds: float | None = None) -> Iterator[None]:
    """Make `retrying` retry inside the context, in this thread.

    Args:
        tell: Called with a line when the storage fails, and again when it works.
        seconds: How long to retry; by default `RETRY_SECONDS`.
    """
    granted = (RETRY_SECONDS if seconds is None else seconds, tell or (lambda words: None))
    token = _patience.set(granted)
    try:
        yield
    finally:
        _patience.reset(token)


def retrying(operation: Callable[[], T], path: "StorePath") -> T:
    """Return the result of a file operation, retrying it inside `patience`.

    Raises:
        StorageError: It kept failing.
        OSError: It failed outside `patience`, or with one of `DEFINITE_ERRORS`.
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
    """Return the result of the operation, or its error if retrying may help."""
    try:
        return operation()
    except (*DEFINITE_ERRORS, StorageError):
        raise
    except OSError as error:
        return error


def _given_up(path: "StorePath", error: OSError, waited: float) -> StorageError:
    full = error.errno in FULL
    todo = "free some space" if full else "fix that"
    return StorageError(
        f"the storage has failed for {waited:.0f} s: {_reason(path, error)}; "
        f"{todo}, then run the study again: it resumes from what was saved",
        full=full,
    )


def _reason(path: "StorePath", error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno not in FULL or not isinstance(path, Path):
        return f"{path}: {reason}"
    return f"{path}: {reason}: {space_left(path)}"


def space_left(path: Path) -> str:
    """Describe the free space of the file system of a path, which may not exist yet."""
    path = path.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    mount = next(f for f in (existing, *existing.parents) if os.path.ismount(f))
    usage = shutil.disk_usage(existing)
    return f"{mount} has {decimal(usage.free)} of {decimal(usage.total)} free"


def _storage_error(reason: str, full: bool) -> StorageError:
    return StorageError(reason, full=full)
