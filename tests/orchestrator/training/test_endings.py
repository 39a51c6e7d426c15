"""How a cell's training can end, and what becomes of it and of the cells that wait for it."""

from types import SimpleNamespace
from unittest import mock

import pytest
from made_cells import ATTEMPT, CELL

from orchestrator.interrupts import Interrupts
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.training.endings import RETRIES, Endings
from orchestrator.training.experiment import TrialQueue
from orchestrator.training.release import ReleaseOrder
from orchestrator.training.shortages import Shortages
from orchestrator.watching.launch_context import LaunchContext
from trainables.cell.report import Ending, TrialReport
from trainables.trial.config import TrialConfig

OUT_OF_MEMORY = TrialReport(ending=Ending.OUT_OF_MEMORY, error="too little")


def config(cell_id, prerequisite=None):
    return TrialConfig(
        cell_id=cell_id,
        prerequisite=prerequisite,
        cell=CELL.model_dump_json(),
        folder="",
        stop_file="",
        index_folder="",
    )


class Launch:
    """A launch whose trials end as a test says."""

    def __init__(self, folder, costs, after, max_concurrent=None):
        self.store = Store(folder)
        for cell in costs:
            self.store.cell(cell).describe(CELL)
        self.progress = mock.Mock()
        self.interrupts = Interrupts(folder / "stop")
        context = LaunchContext(self.progress, self.interrupts)
        self.trained, self.short = [], False
        self.order = ReleaseOrder(
            [config(cell, after.get(cell)) for cell in costs],
            cost=lambda config: costs[config.cell_id],
            room=lambda: {"CPU": 8.0, "GPU": 0.0},
            max_concurrent=max_concurrent,
        )
        space = SimpleNamespace(is_short=lambda: self.short)
        self.choices = SimpleNamespace(applied=lambda config: config)
        self.queue = TrialQueue(self.order, context, space, frozenset(["x"]), self.choices)
        cluster = SimpleNamespace(nodes=[(4.0, 0.0)], room=lambda cpu, gpu: int(cpu <= 4))
        self.endings = Endings(
            self.store,
            context,
            self.order,
            Shortages(self.store, cluster, self.progress),
            self.trained.append,
        )

    def released(self):
        return [config.cell_id for config in iter(self.queue.next, None)]

    def end(self, cell_id, ending=Ending.FINISHED, **fields):
        self.endings.ended(config(cell_id), TrialReport(ending=ending, **fields))

    def states(self):
        return [call.args for call in self.progress.set_state.call_args_list]

    def failed(self):
        return [call.args[0] for call in self.progress.fail.call_args_list]


@pytest.fixture
def launch(tmp_path):
    """Return a function that makes a launch of cells; `after` names what some wait for."""

    def make(costs, after=None, **options):
        return Launch(tmp_path, costs, after or {}, **options)

    return make


def test_the_longest_cell_is_released_first_and_the_launch_ends_with_the_last(launch):
    cells = launch({"a": 1.0, "b": 3.0, "c": 2.0})
    assert cells.released() == ["b", "c", "a"]
    assert not cells.queue.is_finished()
    for cell in "abc":
        cells.end(cell)
    assert cells.trained == ["a", "b", "c"]
    assert cells.queue.is_finished()


def test_no_more_trials_live_than_allowed(launch):
    cells = launch({"a": 1.0, "b": 3.0, "c": 2.0}, max_concurrent=2)
    assert cells.released() == ["b", "c"]
    cells.end("b")
    assert cells.released() == ["a"]


def test_nothing_is_released_once_stopping(launch):
    cells = launch({"a": 1.0, "b": 3.0})
    cells.interrupts.stop()
    assert cells.queue.next() is None
    assert cells.queue.is_finished()


def test_no_cell_begins_while_the_disk_is_short_and_all_do_later(launch):
    cells = launch({"a": 1, "b": 2})
    cells.short = True
    assert cells.released() == []
    assert not cells.queue.is_finished()
    cells.short = False
    assert cells.released() == ["b", "a"]


def test_a_cell_that_used_up_its_retries_before_gets_none(launch):
    cells = launch({})
    assert [cells.queue.retries(config(cell)) for cell in "ax"] == [RETRIES, 0]


TEACHERS = {"costs": {"t": 1.0, "s": 2.0, "long": 2.5, "r": 4.0, "u": 0.5}, "after": {"s": "t"}}
"""`t` teaches `s`, the others are on their own; `t` and `s` take 3 together."""


def test_a_student_is_released_the_moment_its_teacher_is_trained(launch):
    cells = launch(**TEACHERS)
    assert cells.released() == ["r", "t", "long", "u"]
    cells.end("long")
    assert cells.released() == cells.states() == []
    cells.end("t")
    assert cells.states() == [("s", CellState.PENDING)]
    assert cells.released() == ["s"]


def test_a_cell_that_crashed_too_often_has_failed_with_its_last_error(launch):
    cells = launch({"a": 1.0})
    cells.released()
    cells.end("a", Ending.CRASHED, attempt_ended=3, error="trace\nbad image")
    stored = cells.store.cell("a")
    assert stored.state() is CellState.FAILED
    assert stored.error() == "training failed 3 times; the last time:\ntrace\nbad image\n"
    event = {"event": "failed", "attempt": 3, "error": "trace\nbad image"}
    assert stored.log()[-1] | event == stored.log()[-1]
    assert (cells.failed(), cells.trained) == (["a"], [])
    assert cells.queue.is_finished()


@pytest.mark.parametrize("ending", [Ending.CRASHED, Ending.NOT_FINITE])
def test_a_failed_teacher_takes_its_students_along_and_nobody_else(launch, ending):
    costs = {"t": 1.0, "s": 2.0, "s2": 2.0, "pupil": 1.0, "other": 1.0}
    after = {"s": "t", "s2": "t", "pupil": "s"}
    cells = launch(costs, after, max_concurrent=1)
    assert cells.released() == ["t"]
    cells.store.cell("t").add_attempt(ATTEMPT)
    cells.end("t", ending, attempt_ended=1, error="bad image")
    assert cells.failed() == ["t", "s", "pupil", "s2"]
    assert cells.store.cell("pupil").reason().startswith("not trained because its teacher s failed")
    assert cells.store.cell("s").last_event() == "teacher failed"
    assert cells.released() == ["other"]
    cells.end("other")
    assert cells.queue.is_finished()


def test_waiting_for_a_teacher_that_was_interrupted_is_no_deadlock(launch):
    cells = launch({"t": 1.0, "s": 2.0}, after={"s": "t"})
    assert cells.released() == ["t"]
    cells.end("t", Ending.INTERRUPTED)
    assert cells.states() == [("t", CellState.INTERRUPTED)]
    assert cells.queue.next() is None
    assert cells.queue.is_finished()


@pytest.mark.parametrize("ending", [Ending.STORAGE_FULL, Ending.OTHER_CODE])
def test_what_all_cells_would_meet_stops_the_study_and_says_why(launch, ending):
    cells = launch({"a": 2.0, "b": 1.0}, max_concurrent=1)
    cells.released()
    cells.end("a", ending, error="the reason")
    cells.progress.note.assert_called_once_with("a: the reason")
    assert cells.states() == [("a", CellState.INTERRUPTED)]
    assert cells.interrupts.requested
    assert cells.queue.is_finished()


def test_a_cell_out_of_memory_continues_next_in_a_trial_that_reserves_more(launch):
    cells = launch({"t": 3.0, "s": 2.0, "x": 9.0}, after={"s": "t"}, max_concurrent=2)
    assert cells.released() == ["x", "t"]
    tried = config("t")
    for cpus in (2.0, 4.0):
        cells.endings.ended(tried, OUT_OF_MEMORY)
        tried = cells.queue.next()
        assert (tried.cell_id, tried.cpu) == ("t", cpus)
        assert cells.failed() == []
    cells.end("x")
    cells.endings.ended(tried, OUT_OF_MEMORY)
    assert cells.failed() == ["t", "s"]
    assert cells.store.cell("t").error().startswith("too little\nout of memory even with 4 CPU")
    assert cells.queue.is_finished()


def test_a_trial_that_never_began_ends_without_a_trace(launch):
    cells = launch({"t": 1.0, "s": 2.0}, after={"s": "t"})
    cells.released()
    cells.endings.ended(config("t"), TrialReport.from_dict({"trial_id": "t"}))
    assert cells.states() == cells.failed() == []
    assert cells.queue.is_finished()


def test_attempts_that_another_follows_are_logged_and_shown(launch):
    cells = launch({"a": 1.0})
    cells.endings.attempt_crashed("a", 1, "trace\nbad image")
    cells.endings.node_lost("a", 2, "node died")
    logged = [
        {name: x for name, x in e.items() if name != "time"} for e in cells.store.cell("a").log()
    ]
    assert logged == [
        {"event": "attempt failed", "attempt": 1, "error": "trace\nbad image"},
        {"event": "node lost", "nodes_lost": 2, "error": "node died"},
    ]
    assert cells.states() == [("a", CellState.INTERRUPTED)] * 2
    cells.progress.retry.assert_any_call(
        "a", "attempt 1 failed, continuing from its last state (bad image)"
    )
