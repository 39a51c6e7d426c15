"""A folder whose path is short enough for the sockets of an embedded Ray."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cluster.left_behind import PREFIX, held, remove_left_behind
from orchestrator.errors import UserError

LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes of a path in `sockaddr_un`, without the zero at its end: unix(7)."""
BELOW_RAY_S_FOLDER = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What Ray adds: https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/node.py"""
BELOW_TEMPORARY_FOLDER = "/pymp-12345678/listener-12345678"
"""What Python adds for the processes that load images: `multiprocessing.util.get_temp_dir`."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - `mkdtemp` makes a folder in there.


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a folder for Ray's sockets and remove it at the end, and those of killed launches.

    It is in the temporary folder, or in `/tmp` where the path of that is too long. Where it is too
    long for other processes' sockets as well, those that start meanwhile get this one as `TMPDIR`.

    Raises:
        UserError: No folder with a short path can be written.
    """
    remove_left_behind(_parents())
    folder = _made()
    given = os.environ.get("TMPDIR")
    too_long = not _fits(tempfile.gettempdir(), BELOW_TEMPORARY_FOLDER)
    try:
        if too_long:
            os.environ["TMPDIR"] = str(folder)
        with held(folder):
            yield folder
    finally:
        if too_long and given:
            os.environ["TMPDIR"] = given
        shutil.rmtree(folder, ignore_errors=True)


def _parents() -> tuple[str, ...]:
    return tempfile.gettempdir(), *SHORT_FOLDERS


def _made() -> Path:
    for parent in _parents():
        if _fits(parent, f"/ray-12345678{BELOW_RAY_S_FOLDER}"):
            try:
                return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            except OSError:
                continue
    raise UserError(
        "Ray needs a folder with a short path for its sockets, and none of "
        f"{', '.join(SHORT_FOLDERS)} can be written; set TMPDIR to one of at most "
        f"{LONGEST_SOCKET_PATH - len(BELOW_RAY_S_FOLDER) - len('/ray-12345678')} characters"
    )


def _fits(folder: str, further: str) -> bool:
    return len(os.fsencode(folder + further)) <= LONGEST_SOCKET_PATH
