"""Processes do the same as this one would, and never outlive it."""

import os
import signal
import subprocess
import sys

import pytest

from orchestrator.errors import UserError
from orchestrator.processes import shared_out

SIGNALLED = """
import os, signal
from orchestrator.processes import shared_out
from test_processes import signals_the_group_of_the_driver
if __name__ == "__main__":
    os.sched_getaffinity = lambda process: {0, 1}
    # One write: a signal may come while its handler runs, and print writes line ends apart.
    signal.signal(signal.SIGTERM, lambda number, frame: os.write(1, b"signalled\\n"))
    print(*shared_out(signals_the_group_of_the_driver, range(4), "signals", 2))
"""
MAIN = """
import os, signal
from orchestrator.processes import shared_out
from test_processes import process_of
if __name__ == "__main__":
    os.sched_getaffinity = lambda process: {0, 1}
    under_way = shared_out(process_of, range(40), "tells", 2)
    print(next(under_way), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def process_of(item):
    return os.getpid()


def signals_the_group_of_the_driver(item):
    os.killpg(os.getppid(), signal.SIGTERM)
    return os.getpid()


def dies(item):
    os._exit(1)


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})


def test_what_is_shared_out_comes_back_in_its_order():
    assert list(shared_out(abs, range(-9, 0), "counts", 2)) == [*range(9, 0, -1)]


def test_a_few_items_are_not_worth_a_process():
    assert list(shared_out(process_of, range(3), "tells", 2)) == [os.getpid()] * 3
    assert os.getpid() not in shared_out(process_of, range(4), "tells", 2)


def test_a_process_that_dies_is_told_in_a_line():
    told = "^a process that dies died, perhaps because memory ran out$"
    with pytest.raises(UserError, match=told):
        list(shared_out(dies, range(4), "dies", 2))


def run_in_a_session(program, folder):
    """Run a program in a session of its own; return how it ended and what it printed."""
    main = folder / "main.py"
    main.write_text(program)
    paths = os.pathsep.join([os.path.dirname(__file__), os.getcwd()])
    return subprocess.run(
        [sys.executable, str(main)],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        start_new_session=True,
    )


def test_processes_leave_the_signals_of_the_group_to_the_one_that_began_them(tmp_path):
    ended = run_in_a_session(SIGNALLED, tmp_path)
    assert ended.returncode == 0
    *signalled, processes = ended.stdout.splitlines()
    assert set(signalled) == {"signalled"}
    assert len(processes.split()) == 4


def test_processes_end_with_the_one_that_began_them(tmp_path):
    # Its end of the pipe is closed when the last process that has it is gone.
    ended = run_in_a_session(MAIN, tmp_path)
    assert ended.returncode == -9
    assert ended.stdout.split()
