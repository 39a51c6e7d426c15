"""Only one driver runs a study at a time."""

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from orchestrator.errors import UserError
from orchestrator.storage.lease import LEASE_SECONDS, Beat, HeldError, Lease, this_process
from trainables.store_path import StorePath

LOCK_TRIES = 10
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that have no locks."""

Say = Callable[[str], None]


@contextmanager
def driving(study: StorePath, say: Say, on_lost: Say) -> Iterator[None]:
    """Hold a study for this driver.

    In a folder the kernel keeps the lock and lets go of it when the driver dies. In an object
    store, and on a file system without locks, it is a lease.

    Args:
        study: The study's folder.
        say: Told what is waited for.
        on_lost: Called from another thread, with who has taken the study over, should that happen.

    Raises:
        UserError: Another driver holds it, or the storage cannot be written.
    """
    with ExitStack() as held:
        try:
            file = _locked_file(study) if isinstance(study, Path) else None
            lease = Lease(study / "driver.lease")
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
    """Return who runs a study now, None if nobody does."""
    beat = Beat.read(study / "driver.lease")
    if beat is not None and time.time() - beat.time < LEASE_SECONDS:
        return beat.holder
    path = study / "driver.lock"
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
    """Lock `driver.lock` and say in it who did; return None where the file system has no locks."""
    study.mkdir(parents=True, exist_ok=True)
    path = study / "driver.lock"
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
    """Try for a second: `driver_of` holds the lock for a moment, too."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(1 / LOCK_TRIES)
        else:
            return True
    return False
