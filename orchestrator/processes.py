"""Work shared out among processes of this machine, which end with this one."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import TypeVar

from orchestrator.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def shared_out(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, fewest: int
) -> Generator[Result, None, None]:
    """Yield what a function makes of each item, in their order.

    To close it ends the processes once they are through with what they do.

    Args:
        function: Importable by name, for other processes have to find it.
        items: What it is called with.
        what: What it does, as in "a process that ... died".
        fewest: Items that are worth a process; with fewer than two such shares there is none.

    Raises:
        UserError: A process died.
    """
    processes = min(len(items) // fewest, len(os.sched_getaffinity(0)))
    if processes < 2:
        yield from map(function, items)
        return
    # Forking a process that draws a bar from a thread of its own could hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, initializer=_serve)
    try:
        yield from pool.map(function, items)
    except BrokenProcessPool as error:
        raise UserError(f"a process that {what} died, perhaps for want of memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _serve() -> None:
    """Leave Ctrl-C to the process that began this one, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
