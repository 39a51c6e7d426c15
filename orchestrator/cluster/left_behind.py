"""Removes what launches that were killed have left of their Rays: folders, and what works in them.

A launch locks a file in its folder. The kernel releases the lock when the launch ends, however.
"""

import fcntl
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "ray-"
"""How the names of such folders begin."""
LOCK = "tokensweep.lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Mark a folder as that of this process for the duration of the context."""
    unseen = folder / f".{LOCK}"
    with unseen.open("w") as file:
        with suppress(OSError):  # Without locks it is nobody's, and nobody removes it.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unseen.rename(folder / LOCK)
        yield


def remove_left_behind(parents: Iterable[str]) -> None:
    """Remove the folders of launches of this user that are dead, and end their processes.

    Args:
        parents: Where the folders are.
    """
    for parent in dict.fromkeys(parents):
        for lock in Path(parent).glob(f"{PREFIX}*/{LOCK}"):
            with suppress(OSError):  # It is another user's, in use, or just being removed.
                _remove(lock)


def _remove(lock: Path) -> None:
    if lock.lstat().st_uid != os.getuid() or lock.parent.is_symlink():
        return
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for process in _working_in(lock.parent):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(lock.parent, ignore_errors=True)


def _working_in(folder: Path) -> Iterator[int]:
    """Yield the processes whose command line has a path below a folder."""
    wanted = os.fsencode(folder / "_")[:-1]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (process / "cmdline").read_bytes():
                yield int(process.name)
