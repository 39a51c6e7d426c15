"""Faults of the machine under every Python process that has this folder on its PYTHONPATH.

Python imports a module of this name as it starts. Environment variables choose the faults:

    FAULT_CLOCK     a seed: the wall clock jumps back and forth, by up to a day, time and again
    FAULT_PATIENCE  seconds for which a storage that fails is tried again
    FAULT_STORAGE   a file: while it exists nothing below its folder can be made durable or renamed;
                    it holds the name of the error, such as ENOSPC. A line for each program that
                    was disturbed goes to a file beside it, FAULT_STORAGE.log
    FAULT_READING   the same for reading, in Ray's workers alone; a pattern after the error's name
                    limits it to paths that match
    FAULT_GATE      a file: while it exists, holding a step and a pattern, the training of cells
                    that match waits before it saves a state of a later step
"""

import errno
import io
import os
import random
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any


def _jumping(clock: Callable[[], Any], unit: int, draw: random.Random) -> Callable[[], Any]:
    offset = 0.0

    def jumped() -> Any:
        nonlocal offset
        if draw.random() < 0.05:
            offset = draw.uniform(-86400, 86400)
        return type(clock())(clock() + offset * unit)

    return jumped


def _failing(call: Callable[..., Any], flag: Path) -> Callable[..., Any]:
    def failing(where: Any, *arguments: Any, **options: Any) -> Any:
        try:
            with open(flag) as file:  # A path would open it by what this may stand for.
                name, *patterns = file.read().split() or [""]
        except OSError:
            return call(where, *arguments, **options)
        path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else where
        within = Path(path).is_relative_to(flag.parent)
        if name and within and all(fnmatch(str(path), pattern) for pattern in patterns):
            with open(f"{flag}.log", "a") as log:
                log.write(f"{program}\n")
            number = getattr(errno, name)
            raise OSError(number, os.strerror(number), str(path))
        return call(where, *arguments, **options)

    return failing


def _held(save_last: Callable[..., None], gate: Path) -> Callable[..., None]:
    def holds(cell: str, step: int) -> bool:
        try:
            last, pattern = gate.read_text().split()
        except FileNotFoundError:
            return False
        return step > int(last) and fnmatch(cell, pattern)

    def held(folder: Any, step: int, state: bytes) -> None:
        while holds(folder.path.name, step):
            time.sleep(0.02)
        save_last(folder, step, state)

    return held


WORKER = "default_worker.py"
PROGRAMS = {"full_grid.py", WORKER}
"""What is under faults: drivers and the processes that train, not the rest of Ray."""

program = next((n for a in sys.orig_argv if (n := Path(a).name) in PROGRAMS), None)
under_faults = program is not None
if under_faults and (seed := os.environ.get("FAULT_CLOCK")):
    draw = random.Random(f"{seed} {os.getpid()}")
    time.time = _jumping(time.time, 1, draw)
    time.time_ns = _jumping(time.time_ns, 10**9, draw)
if under_faults and (seconds := os.environ.get("FAULT_PATIENCE")):
    from trainables.storage import retry as patience

    patience.RETRY_SECONDS = float(seconds)
if under_faults and (file := os.environ.get("FAULT_STORAGE")):
    os.fsync = _failing(os.fsync, Path(file))
    os.replace = _failing(os.replace, Path(file))
if program == WORKER and (file := os.environ.get("FAULT_READING")):
    io.open = _failing(io.open, Path(file))
if program == WORKER and (file := os.environ.get("FAULT_GATE")):
    from trainables.cell.cell_folder import CellFolder

    CellFolder.save_last = _held(CellFolder.save_last, Path(file))
