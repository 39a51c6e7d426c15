"""Progress: what is known of a launch, and how often it is told."""

import io

import pytest
from rich.console import Console

from orchestrator.errors import UserError
from orchestrator.store.stored_cell import CellState
from orchestrator.watching import progress as module
from orchestrator.watching import status_view
from orchestrator.watching.progress import Progress, StatusPublisher
from orchestrator.watching.status import Activity, ClusterFacts
from trainables.cell.report import Report, TrialReport


def report(step=5, first_step=0, **others):
    """What a trial reports after a step of ten in two epochs."""
    fields = {
        "step": step,
        "total_steps": 10,
        "epochs": 2,
        "loss": 1.25,
        "metric": "top1",
        "accuracy": 75.0,
        "images_per_second": 120.0,
        "data_wait": 0.37,
    }
    return TrialReport(
        training=Report(**fields | others),
        first_step=first_step,
        checkpoint_bytes=1000,
        checkpoint_seconds=0.5,
    )


ONE_CPU = {"CPU": 1.0}


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    for place in (module, status_view):
        monkeypatch.setattr(place, "time", clock)
    return clock


def make(states, work=None, *, terminal=False, quiet=False):
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    work = dict.fromkeys(states, 1.0) if work is None else work
    progress = Progress(console, "study", states, work, driver="process 1 on host", quiet=quiet)
    return progress, console.file


def test_one_line_a_minute_off_a_terminal(clock):
    progress, printed = make({"a": CellState.PENDING, "b": CellState.DONE}, {"a": 1.0})
    with progress:
        progress.start("a", ONE_CPU)
        clock.now += 50
        progress.report("a", report())
        progress.tick()
        assert printed.getvalue() == ""
        clock.now += 10
        progress.tick()
        progress.tick()
    assert printed.getvalue() == (
        "study: 2 cells: 1 done, 1 running · 120 images/s · 1 min so far · "
        "about 1 min left, a guess from few cells\n"
    )


def test_a_terminal_shows_the_running_cells(clock):
    states = dict.fromkeys(("a-cell", "b-cell"), CellState.PENDING)
    progress, printed = make(states, terminal=True)
    progress.cluster = lambda: ClusterFacts(nodes=2, nodes_lost=1, cpus=8, gpus=2)
    with progress:
        progress.start("a-cell", {"CPU": 1.0, "GPU": 0.5})
        progress.start("b-cell", {"CPU": 1.0, "GPU": 0.5})
        progress.report("a-cell", report(), "node-7")
        progress.retry("b-cell", "it was\nlost")
        progress.tick()
    text = printed.getvalue()
    shown = ("b-cell", "starting", "a-cell", "1.0/2", "1.250", "top1 75.0 %", "120", "37%")
    facts = ("0.5 GPU", "node-7", "50% of the GPUs reserved", "retried: b-cell: it was lost")
    cluster = "2 nodes, reserved: 1 of 2 GPUs, 2 of 8 CPUs, 1 retry, 1 node lost"
    for part in (*shown, *facts, cluster, "run by process 1 on host"):
        assert part in text


def test_only_the_first_of_many_are_drawn_and_the_rest_counted(clock):
    states = {f"cell-{number:02}": CellState.PENDING for number in range(20)}
    progress, printed = make(states, terminal=True)
    with progress:
        for cell in states:
            progress.fail(cell, "no luck", f"{cell}/error.txt")
        progress.tick()
    assert "failed: cell-11: no luck (see cell-11/error.txt)" in printed.getvalue()
    assert "cell-12" not in printed.getvalue()
    assert "and 8 more" in printed.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_what_cells_prepare_is_told_once(clock, terminal):
    progress, printed = make(dict.fromkeys("abc", CellState.PENDING), terminal=terminal)
    with progress:
        for cell, words in (("a", "building a cache"), ("b", "waiting [1]"), ("c", "waiting [1]")):
            progress.start(cell, ONE_CPU)
            progress.report(cell, report(images_per_second=None, preparing=words))
        clock.now += 60
        progress.tick()
    lines = printed.getvalue().splitlines()
    counts = [
        sum(words in line for line in lines) for words in ("study: ", "building", "waiting [1]")
    ]
    assert counts == [counts[0]] * 3
    assert counts[0] > 0


def test_how_far_comparing_is_shows_until_it_is_done(clock):
    with make({"a": CellState.DONE})[0] as progress:
        progress.compare(1200, 6000)
        words = "comparing: 1,200 of 6,000 steps"
        assert words in map(str, status_view.status_view(progress.status()).renderables)
        clock.now += 61
        progress.compare(1201, 6000)
        assert "comparing: 1,201 of 6,000" in progress._console.file.getvalue()
        progress.compare(6000, 6000)
        assert progress.status().comparing is None


def test_how_far_the_figures_are_shows_until_they_are_drawn(clock):
    with make({"a": CellState.DONE})[0] as progress:
        clock.now += 61
        progress.draw("drawing figures", 1200, 1300)
        assert "drawing figures: 1,200 of 1,300" in progress._console.file.getvalue()
        progress.draw("drawing figures", 1300, 1300)
        assert progress.status().drawing is None


def test_states_are_counted_in_order(clock):
    states = dict.fromkeys("abcd", CellState.PENDING) | {"e": CellState.FAILED}
    progress, _ = make(states)
    progress.start("a", ONE_CPU)
    progress.set_state("b", Activity.EVALUATING)
    progress.set_state("c", CellState.DONE)
    counts = {"done": 1, "failed": 1, "running": 1, "evaluating": 1, "pending": 1}
    assert list(progress.status().states.items()) == list(counts.items())


def test_a_failed_cell_that_is_tried_again_has_not_failed(clock):
    progress, _ = make({"a": CellState.FAILED})
    progress.plan("a", ONE_CPU)
    assert progress.status().states == {"pending": 1}
    progress.start("a", ONE_CPU)
    progress.fail("a", "out of\nluck", "error.txt")
    (failed,) = progress.status().failed
    assert (failed.cell, failed.reason, failed.see) == ("a", "out of luck", "error.txt")
    progress.start("a", ONE_CPU)
    assert not progress.status().failed


def test_a_launch_adds_up_what_its_cells_report(clock):
    progress, _ = make(dict.fromkeys("ab", CellState.INTERRUPTED))
    progress.start("a", ONE_CPU)
    progress.report("a", report(first_step=3))  # 2 of 10 steps, of 2 epochs.
    progress.report("a", report(8, first_step=3))
    progress.set_state("a", CellState.INTERRUPTED)
    progress.retry("a", "killed")
    progress.start("a", ONE_CPU)
    progress.report("a", report(10, first_step=4))
    progress.set_state("a", Activity.EVALUATING)
    progress.set_state("a", CellState.DONE)
    clock.now += 1800
    launch = progress.status().launch
    assert launch.epochs == pytest.approx((2 + 3 + 6) / 10 * 2)
    assert (launch.checkpoint_bytes, launch.checkpoint_seconds) == (3000, 1.5)
    assert (launch.trained, launch.retries, launch.cells_per_hour) == (1, 1, 2.0)


def test_the_time_left_counts_what_was_done_in_this_launch_only(clock):
    progress, _ = make({"a": CellState.INTERRUPTED, "b": CellState.PENDING})
    progress.start("a", ONE_CPU)
    progress.report("a", report(8, first_step=6))
    clock.now += 20
    # 0.2 units in 20 s, one at a time; 0.2 are left of `a` and 1 of `b`.
    assert progress.status().left.seconds == pytest.approx(120)


def test_the_time_left_goes_by_what_cells_reserve(clock):
    progress, _ = make(dict.fromkeys("abcd", CellState.PENDING))
    for cell, gpus in zip("abcd", (0.5, 0.5, 1.0, 1.0), strict=True):
        progress.plan(cell, {"CPU": 1.0, "GPU": gpus})
    for cell in "ab":
        progress.start(cell, {"CPU": 1.0, "GPU": 0.5})
        progress.report(cell, report())
    clock.now += 10
    # A unit costs 10 GPU-seconds; 3 are left, on one GPU.
    assert progress.status().left.seconds == pytest.approx(30)


def test_making_images_ready_does_not_count_as_training(clock):
    progress, _ = make({"a": CellState.PENDING})
    progress.start("a", ONE_CPU)
    clock.now += 1000
    progress.report("a", report(0, preparing="building a cache"))
    clock.now += 10
    progress.report("a", report())
    assert progress.status().left.seconds == pytest.approx(10)


def test_quiet_says_only_notes(clock):
    progress, printed = make({"a": CellState.PENDING}, terminal=True, quiet=True)
    with progress:
        clock.now += 600
        progress.tick()
        progress.note("a failed")
    assert printed.getvalue() == "a failed\n"


def test_waiting_cells_are_counted_and_shown_by_what_they_wait_for(clock):
    states = dict.fromkeys(("teacher", "a", "b"), CellState.PENDING)
    progress, printed = make(states, terminal=True)
    with progress:
        for cell in "ab":
            progress.wait(cell, "teacher")
        assert progress.status().states == {"waiting": 2, "pending": 1}
        progress.tick()
    assert "2 waiting for teacher" in printed.getvalue()
    progress.set_state("a", CellState.PENDING)
    assert progress.status().waiting == {"teacher": 1}


def test_every_sink_is_told_at_its_own_pace_and_a_slow_one_less_often(clock):
    progress, _ = make({"a": CellState.PENDING})
    told = {"fast": [], "slow": []}

    def slow(status):
        told["slow"].append(clock.now)
        clock.now += 1.0

    def fast(status):
        told["fast"].append(clock.now)

    with progress.publishing(StatusPublisher("slow", slow, 15.0)):
        with progress.publishing(StatusPublisher("fast", fast, 5.0)):
            for _ in range(400):
                progress.tick()
                clock.now += 1.0
            # 1 s of publishing is paid for by 200 s without.
            assert told["slow"] == [1000.0, 1200.0, 1400.0]
            assert len(told["fast"]) == pytest.approx(400 / 5, abs=2)
        known = len(told["fast"])
        clock.now += 200.0
        progress.tick()
        assert (len(told["slow"]), len(told["fast"])) == (4, known)
    progress.tick()
    assert len(told["slow"]) == 5


def test_a_launch_that_never_begins_tells_nothing(clock):
    progress, _ = make({"a": CellState.PENDING})
    told = []
    with (
        pytest.raises(UserError),
        progress.publishing(StatusPublisher("the status", told.append, 15.0)),
    ):
        raise UserError("there is no such cluster")
    assert told == []


def test_a_sink_that_fails_is_complained_of_once_and_harms_nobody(clock):
    progress, printed = make({"a": CellState.PENDING}, quiet=True)
    told = []

    def fail(status):
        raise OSError("disk full")

    with progress.publishing(
        StatusPublisher("metrics", fail, 5.0), StatusPublisher("the rest", told.append, 5.0)
    ):
        for _ in range(2):
            progress.tick()
            clock.now += 10.0
    assert printed.getvalue() == "cannot publish metrics: OSError: disk full\n"
    assert len(told) == 3
