"""The search algorithm: one trial a cell, the critical path first, none before its teacher."""

import pytest
from ray.tune.experiment import Experiment

from orchestrator.training.search import CellSearch

RESERVED = {"cpu": 1.0, "gpu": 0.0, "workers": 1}


class Trainable:
    """Stands for what a trial runs; nothing is run here."""


def twice(config):
    return config | {"cpu": 2 * config["cpu"]}


def make(
    costs, *, after=None, stopping=lambda: False, held=lambda: False, max_concurrent=None, tmp_path
):
    """Return a search over cells with costs; `after` names the prerequisite of some."""
    search = CellSearch(
        cost=lambda config: costs[config["cell_id"]],
        retries=lambda config: 2 if config["cell_id"] == "a" else 0,
        stopping=stopping,
        held=held,
        room=lambda: {"CPU": 8.0, "GPU": 0.0},
        ahead=1,
        out_of_memory=lambda config, _: twice(config) if config["cpu"] < 4 else None,
        on_released=lambda cell: search.told.append(cell),
        on_given_up=lambda cell, failed: search.told.append((cell, failed)),
        max_concurrent=max_concurrent,
    )
    search.told = []
    grid = [RESERVED | {"cell_id": cell, "prerequisite": (after or {}).get(cell)} for cell in costs]
    search.set_search_properties(None, None, {"trial": {"grid_search": grid}})
    experiment = Experiment("test", "Trainable", storage_path=str(tmp_path))
    search.add_configurations(experiment)
    return search


def released(search):
    """Return the ids of all trials that may begin now."""
    trials = iter(search.next_trial, None)
    return [trial.trial_id for trial in trials]


def end(search, cell_id, **result):
    search.on_trial_complete(cell_id, {"finished": True} | result)


@pytest.fixture(autouse=True)
def registered():
    from ray.tune import Trainable as Base
    from ray.tune import register_trainable

    register_trainable("Trainable", type("Trainable", (Base,), {}))


def test_the_longest_cell_is_released_first(tmp_path):
    search = make({"a": 1.0, "b": 3.0, "c": 2.0}, tmp_path=tmp_path)
    trials = [search.next_trial() for _ in range(3)]
    assert [trial.trial_id for trial in trials] == ["b", "c", "a"]
    assert [trial.max_failures for trial in trials] == [0, 0, 2]
    assert trials[0].config == RESERVED | {"cell_id": "b", "prerequisite": None}
    assert search.next_trial() is None
    assert not search.is_finished()
    for cell in "abc":
        end(search, cell)
    assert search.is_finished()


def test_tune_is_left_nothing_to_save_of_a_trial(tmp_path):
    search = make({"a": 1.0}, tmp_path=tmp_path)
    assert search.next_trial().get_json_state() == ("{}", "{}")


def test_no_more_trials_live_than_allowed(tmp_path):
    search = make({"a": 1.0, "b": 3.0, "c": 2.0}, max_concurrent=2, tmp_path=tmp_path)
    search.next_trial()
    search.next_trial()
    assert search.next_trial() is None
    assert not search.is_finished()
    end(search, "b")
    assert search.next_trial().trial_id == "a"


def test_nothing_is_released_once_stopping(tmp_path):
    stopping = []
    search = make({"a": 1.0, "b": 3.0}, stopping=lambda: bool(stopping), tmp_path=tmp_path)
    search.next_trial()
    stopping.append(True)
    assert search.next_trial() is None
    assert search.is_finished()


TEACHERS = {"costs": {"t": 1.0, "s": 2.0, "long": 2.5, "r": 4.0, "u": 0.5}, "after": {"s": "t"}}
"""`t` teaches `s`, the others are on their own; `t` and `s` take 3 together."""


def test_a_teacher_goes_before_what_is_shorter_than_it_and_its_student(tmp_path):
    search = make(**TEACHERS, tmp_path=tmp_path)
    assert released(search) == ["r", "t", "long", "u"]
    assert not search.is_finished()


def test_a_student_is_released_the_moment_its_teacher_is_trained(tmp_path):
    search = make(**TEACHERS, tmp_path=tmp_path)
    released(search)
    end(search, "long")
    assert released(search) == search.told == []
    end(search, "t")
    assert search.told == ["s"]
    assert released(search) == ["s"]


@pytest.mark.parametrize(
    "failure", [{"error": True}, {"result": {"attempt_ended": 3, "finished": False}}]
)
def test_a_failed_teacher_takes_its_students_along_and_nobody_else(tmp_path, failure):
    costs = {"t": 1.0, "s": 2.0, "s2": 2.0, "pupil": 1.0, "other": 1.0}
    after = {"s": "t", "s2": "t", "pupil": "s"}
    search = make(costs, after=after, max_concurrent=1, tmp_path=tmp_path)
    assert released(search) == ["t"]
    search.on_trial_complete("t", **failure)
    assert search.told == [("s", "t"), ("pupil", "s"), ("s2", "t")]
    assert released(search) == ["other"]
    end(search, "other")
    assert search.is_finished()


def test_a_teacher_that_is_not_in_the_launch_is_trained_already(tmp_path):
    search = make({"s": 2.0, "x": 3.0}, after={"s": "t"}, tmp_path=tmp_path)
    assert released(search) == ["x", "s"]


def test_waiting_for_a_teacher_that_was_interrupted_is_no_deadlock(tmp_path):
    search = make({"t": 1.0, "s": 2.0}, after={"s": "t"}, tmp_path=tmp_path)
    assert released(search) == ["t"]
    assert not search.is_finished()
    end(search, "t", finished=False, interrupted=True)
    assert search.told == []
    assert search.next_trial() is None
    assert search.is_finished()


def test_a_cell_out_of_memory_goes_on_next_in_a_trial_that_reserves_more(tmp_path):
    search = make(
        {"t": 3.0, "s": 2.0, "x": 9.0}, after={"s": "t"}, max_concurrent=2, tmp_path=tmp_path
    )
    assert released(search) == ["x", "t"]
    for number, cpus in ((2, 2.0), (3, 4.0)):
        name = "t" if number == 2 else "t~2"
        search.on_trial_complete(name, {"out_of_memory": "too little", "finished": False})
        trial = search.next_trial()
        assert (trial.trial_id, trial.config["cpu"]) == (f"t~{number}", cpus)
        assert search.told == []
    end(search, "x")
    search.on_trial_complete("t~3", {"out_of_memory": "too little", "finished": False})
    assert search.told == [("s", "t")]
    assert search.is_finished()


def test_a_trial_that_never_began_ends_without_a_result(tmp_path):
    search = make({"t": 1.0, "s": 2.0}, after={"s": "t"}, tmp_path=tmp_path)
    released(search)
    search.on_trial_complete("t")
    assert search.told == []
    assert search.is_finished()


def test_no_cell_begins_while_they_are_held_and_all_do_later(tmp_path):
    held = [True]
    search = make({"a": 1, "b": 2}, held=lambda: held[0], tmp_path=tmp_path)
    assert released(search) == []
    assert not search.is_finished()
    held[0] = False
    assert released(search) == ["b", "a"]
