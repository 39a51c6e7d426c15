"""Progress: what is told, and how often."""

import io

import pytest
from rich.console import Console

from orchestrator import progress as module
from orchestrator.progress import EVALUATING, RUNNING, Progress
from orchestrator.store import CellState

REPORT = {
    "first_step": 0,
    "step": 5,
    "total_steps": 10,
    "epochs": 2,
    "loss": 1.25,
    "metric": "top1",
    "accuracy": 75.0,
    "images_per_second": 120.0,
    "preparing": None,
    "data_wait": 0.37,
}


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def make(states, work, *, terminal=False, quiet=False):
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    return Progress(console, "study", states, work, quiet=quiet), console.file


def test_one_line_a_minute_off_a_terminal(clock):
    progress, printed = make({"a": CellState.PENDING, "b": CellState.DONE}, {"a": 1.0})
    with progress:
        progress.set_state("a", RUNNING)
        progress.report("a", REPORT)
        progress.tick()
        assert printed.getvalue() == ""
        clock.now += 60
        progress.tick()
        progress.tick()
    assert printed.getvalue() == (
        "study: 2 cells: 1 done, 1 running · 120 images/s · 1 min so far · about 1 min left\n"
    )


def test_the_time_left_counts_what_was_done_in_this_launch_only(clock):
    progress, _ = make({"a": CellState.INTERRUPTED, "b": CellState.PENDING}, {"a": 1.0, "b": 1.0})
    progress.report("a", REPORT | {"step": 8, "first_step": 6})
    clock.now += 20
    # 0.2 units in 20 s; 0.2 are left of `a` and 1 of `b`.
    assert "about 2 min left" in progress._headline().plain


def test_a_terminal_shows_the_running_cells(clock):
    states = dict.fromkeys(("a-cell", "b-cell"), CellState.PENDING)
    progress, printed = make(states, dict.fromkeys(states, 1.0), terminal=True)
    with progress:
        progress.set_state("a-cell", RUNNING)
        progress.set_state("b-cell", RUNNING)
        progress.report("a-cell", REPORT)
        progress.tick()
    text = printed.getvalue()
    for part in ("b-cell", "starting", "a-cell", "1.0/2", "1.250", "top1 75.0 %", "120", "37%"):
        assert part in text


@pytest.mark.parametrize("terminal", [True, False])
def test_what_cells_prepare_is_told_once(clock, terminal):
    states = dict.fromkeys("abc", CellState.PENDING)
    progress, printed = make(states, dict.fromkeys(states, 1.0), terminal=terminal)
    with progress:
        for cell, words in (("a", "building a cache"), ("b", "waiting [1]"), ("c", "waiting [1]")):
            progress.set_state(cell, RUNNING)
            progress.report(cell, REPORT | {"images_per_second": None, "preparing": words})
        clock.now += 60
        progress.tick()
    lines = printed.getvalue().splitlines()
    counts = [
        sum(words in line for line in lines) for words in ("study: ", "building", "waiting [1]")
    ]
    assert counts == [counts[0]] * 3
    assert counts[0] > 0


def test_states_are_counted_in_order(clock):
    states = dict.fromkeys("abcd", CellState.PENDING) | {"e": CellState.FAILED}
    progress, _ = make(states, {})
    progress.set_state("a", RUNNING)
    progress.set_state("b", EVALUATING)
    progress.set_state("c", CellState.DONE)
    assert progress.summary() == "1 done, 1 failed, 1 running, 1 evaluating, 1 pending"


def test_quiet_says_only_notes(clock):
    progress, printed = make({"a": CellState.PENDING}, {"a": 1.0}, terminal=True, quiet=True)
    with progress:
        clock.now += 600
        progress.tick()
        progress.note("a failed")
    assert printed.getvalue() == "a failed\n"


def test_waiting_cells_are_counted_and_shown_by_what_they_wait_for(clock):
    states = dict.fromkeys(("teacher", "a", "b"), CellState.PENDING)
    progress, printed = make(states, {}, terminal=True)
    with progress:
        for cell in "ab":
            progress.wait(cell, "teacher")
        assert progress.summary() == "2 waiting, 1 pending"
        progress.tick()
    assert "2 waiting for teacher" in printed.getvalue()
    progress.set_state("a", CellState.PENDING)
    assert progress.summary() == "1 waiting, 2 pending"
    assert progress._queues() == ["1 waiting for teacher"]
