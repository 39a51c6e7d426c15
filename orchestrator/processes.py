"""Work spread over processes of this machine, which end with this one.

`joblib.Parallel(return_as="generator")` would be shorter, but its processes outlive a parent that
is killed: measured with joblib 1.6.0, they finished their batches and waited for more, 385 s in
all, where these end within 2 s.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from threading import Thread
from typing import TypeVar

from orchestrator.errors import UserError
from orchestrator.interrupts import SIGNALS

Item = TypeVar("Item")
Result = TypeVar("Result")


def shared_out(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, fewest: int
) -> Generator[Result, None, None]:
    """Yield what a function makes of each item, in their order.

    Closing the generator ends the processes once they have finished their current items.

    Args:
        function: Importable by name, because other processes have to find it.
        items: What it is called with.
        what: What it does, as in "a process that ... died".
        fewest: Items that are worth a process. Below twice as many, this process does the work.

    Raises:
        UserError: A process died.
    """
    processes = min(len(items) // fewest, len(os.sched_getaffinity(0)))
    if processes < 2:
        yield from map(function, items)
        return
    # Forking could hang: the thread that draws the progress bar may hold a lock.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, initializer=_serve)
    try:
        with _signals_held_back():
            results = pool.map(function, items)
        yield from results
    except BrokenProcessPool as error:
        raise UserError(f"a process that {what} died, perhaps because memory ran out") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold back the signals of a process group, here and in processes that start meanwhile.

    Otherwise one that reaches a process before it has left the group would end it.
    """
    # It allows these signals again when it starts, so it has to be there before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve() -> None:
    """Leave the signals of a process group to the parent, and end with it, however it ends."""
    os.setsid()
    _drop_held_back_signals()
    Thread(target=_end_with_parent, daemon=True).start()


def _drop_held_back_signals() -> None:
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
