"""The order in which cells begin: room, dependencies, and that every launch comes to its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.training.release import ReleaseOrder
from trainables.trial.config import TrialConfig


def config(cell_id, prerequisite=None, **reserved):
    return TrialConfig(
        cell_id=cell_id,
        prerequisite=prerequisite,
        cell="",
        folder="",
        stop_file="",
        index_folder="",
        **reserved,
    )


def order(*configs, costs=None, cpus=100.0, gpus=0.0, **options):
    return ReleaseOrder(
        configs,
        cost=lambda config: (costs or {}).get(config.cell_id, 1.0),
        room=lambda: {"CPU": cpus, "GPU": gpus},
        **options,
    )


def released(order):
    return [config.cell_id for config in iter(order.next, None)]


@pytest.mark.parametrize("ahead", [1, 3])
def test_what_fits_is_released_at_once_and_little_more(ahead):
    cells = [config(f"{n}", gpu=0.25) for n in range(20)]
    launch = order(*cells, gpus=2.0, ahead=ahead)
    assert len(released(launch)) == 8 + ahead
    launch.stopped("0")
    assert len(released(launch)) == 1


def test_workers_count_each_and_a_cluster_that_grows_is_used():
    gpus = [2.0]
    launch = ReleaseOrder(
        [config(f"{n}", cpu=0.5, gpu=1.0, workers=2) for n in range(9)],
        cost=lambda config: 1.0,
        room=lambda: {"CPU": 16.0, "GPU": gpus[0]},
    )
    assert len(released(launch)) == 1 + 1
    gpus[0] = 6.0
    assert len(released(launch)) == 2


def test_cells_without_a_gpu_are_held_back_by_cpus_alone():
    launch = order(*(config(f"{n}") for n in range(9)), cpus=4.0)
    assert len(released(launch)) == 4 + 1


def test_a_chain_of_three_goes_before_what_is_shorter_than_all_of_it():
    chain = [config("a"), config("b", "a"), config("c", "b")]
    launch = order(*chain, config("x"), config("y"), costs={"x": 2.5, "y": 3.5})
    assert released(launch) == ["y", "a", "x"]


@st.composite
def launches(draw):
    """Cells with what they wait for, always among the cells before them; limits, and fates."""
    count = draw(st.integers(1, 25))
    cells = []
    for number in range(count):
        before = st.sampled_from([f"{n}" for n in range(number)]) if number else st.nothing()
        cells.append(
            config(
                f"{number}",
                draw(st.none() | before | st.just("done before")),
                gpu=draw(st.sampled_from([0.0, 0.125, 0.5, 1.0])),
                workers=draw(st.integers(1, 2)),
            )
        )
    costs = {c.cell_id: draw(st.floats(0, 10)) for c in cells}
    limit = draw(st.none() | st.integers(1, 4))
    gpus = draw(st.integers(2, 4))
    made = order(
        *cells, costs=costs, gpus=gpus, max_concurrent=limit, ahead=draw(st.integers(1, 4))
    )
    return cells, limit, made


FATES = st.sampled_from(["finished"] * 4 + ["failed", "interrupted", "out of memory"])


class Run:
    """Takes a launch to its end, with fates drawn for its cells."""

    def __init__(self, cells, limit, order):
        self.prerequisites = {c.cell_id: c.prerequisite for c in cells}
        self.limit = limit
        self.order = order
        self.fate, self.live, self.given_up, self.restarted = {}, [], set(), set()

    def begin_all(self):
        while (config := self.order.next()) is not None:
            cell = config.cell_id
            assert cell not in {*self.live, *self.fate, *self.given_up}
            teacher = self.prerequisites[cell]
            assert teacher not in self.prerequisites or self.fate.get(teacher) == "finished"
            self.live.append(cell)
            assert self.limit is None or len(self.live) <= self.limit

    def end(self, cell, fate):
        stopped = self.order.stopped(cell)
        if fate == "out of memory" and cell not in self.restarted:
            self.restarted.add(cell)
            self.order.again(stopped)
            return
        self.fate[cell] = "failed" if fate == "out of memory" else fate
        if fate == "finished":
            waited = {c for c, teacher in self.prerequisites.items() if teacher == cell}
            assert set(self.order.finished(cell)) == waited
        elif self.fate[cell] == "failed":
            self.given_up |= {follower for follower, _ in self.order.failed(cell)}

    def expected_end(self, cell):
        """What must have become of a cell, from what became of those it waits for."""
        teacher = self.prerequisites[cell]
        before = self.expected_end(teacher) if teacher in self.prerequisites else "finished"
        if before == "finished":
            return self.fate[cell]
        return "given up" if before in ("failed", "given up") else "waits in vain"


@given(launches(), st.data())
def test_a_launch_ends_and_leaves_only_what_waits_in_vain(launch, data):
    run = Run(*launch)
    run.begin_all()
    while run.live:
        assert not run.order.is_stuck()
        place = data.draw(st.integers(0, len(run.live) - 1))
        run.end(run.live.pop(place), data.draw(FATES))
        run.begin_all()
    assert run.order.is_stuck()
    ends = {cell: run.expected_end(cell) for cell in run.prerequisites}
    assert run.given_up == {cell for cell, end in ends.items() if end == "given up"}
    assert len(run.order) == sum(end == "waits in vain" for end in ends.values())


def test_a_cell_waits_for_all_its_trials_and_its_teacher():
    trials = [config("a"), config("b")]
    follower = config("c", "teacher", trials=("a", "b"))
    launch = order(*trials, config("teacher"), follower, costs={"c": 5.0})
    assert set(released(launch)) == {"a", "b", "teacher"}
    for cell_id in ("a", "teacher"):
        launch.stopped(cell_id)
        assert launch.finished(cell_id) == []
        assert released(launch) == []
    launch.stopped("b")
    assert launch.finished("b") == ["c"]
    assert released(launch) == ["c"]


def test_what_waits_for_a_failed_trial_is_given_up_once():
    student = config("student", "teacher", trials=("a",))
    launch = order(config("a"), config("teacher", trials=("a",)), student)
    assert released(launch) == ["a"]
    launch.stopped("a")
    given_up = launch.failed("a")
    assert sorted(cell for cell, _ in given_up) == ["student", "teacher"]
    assert launch.is_stuck()
