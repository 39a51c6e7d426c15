"""The lock that lets only one driver run a study at a time."""

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from orchestrator.errors import UserError
from trainables.storage import layout
from trainables.storage.lease import LEASE_SECONDS, Heartbeat, HeldError, Lease, this_process
from trainables.storage.paths import StorePath

LOCK_TRIES = 10
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems without locks."""

Say = Callable[[str], None]


@contextmanager
def driving(study: StorePath, say: Say, on_lost: Say) -> Iterator[None]:
    """Hold a study for this driver.

    In a folder it is a lock of the kernel, which is released when the driver dies. In an object
    store, and on a file system without locks, it is a lease.

    Args:
        study: The study's folder.
        say: Called with what is being waited for.
        on_lost: Called from another thread with the new holder, should the study be taken over.

    Raises:
        UserError: Another driver holds it, or the storage cannot be written.
    """
    with ExitStack() as held:
        try:
            file = _locked_file(study) if isinstance(study, Path) else None
            lease = Lease(layout.DRIVER_LEASE.below(study))
            held.enter_context(file or lease.held(say, on_lost))
        except HeldError as error:
            raise UserError(
                f"{study} is being run by {error}; watch it with: tokensweep status {study}"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write the storage {study}: {error.strerror or error}"
            ) from error
        yield


def driver_of(study: StorePath) -> str | None:
    """Return who is running a study, None if nobody is."""
    beat = Heartbeat.read(layout.DRIVER_LEASE.below(study))
    if beat is not None and time.time() - beat.time < LEASE_SECONDS:
        return beat.holder
    path = layout.DRIVER_LOCK.below(study)
    return _holder(path) if isinstance(path, Path) and path.exists() else None


def _holder(path: Path) -> str | None:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another driver"
        except OSError:
            return None
    return None


def _locked_file(study: Path) -> IO[str] | None:
    """Lock `driver.lock` and write the holder into it; None if the file system has no locks."""
    study.mkdir(parents=True, exist_ok=True)
    path = layout.DRIVER_LOCK.below(study)
    with ExitStack() as opened:
        file = opened.enter_context(path.open("a+"))
        try:
            if not _locked(file):
                raise HeldError(_holder(path))
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return None
            raise
        file.truncate(0)
        file.write(f"{this_process()}\n")
        file.flush()
        opened.pop_all()
    return file


def _locked(file: IO[str]) -> bool:
    """Try for a second, because `driver_of` also holds the lock for a moment."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(1 / LOCK_TRIES)
        else:
            return True
    return False
