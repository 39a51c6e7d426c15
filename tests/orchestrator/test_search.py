"""The search algorithm: one trial a cell, longest first, none once stopping."""

import pytest
from ray.tune.experiment import Experiment

from orchestrator.search import CellSearch


class Trainable:
    """Stands for what a trial runs; nothing is run here."""


def make(costs, *, stopping=lambda: False, max_concurrent=None, tmp_path):
    search = CellSearch(
        cost=lambda config: costs[config["cell_id"]],
        retries=lambda config: 2 if config["cell_id"] == "a" else 0,
        stopping=stopping,
        max_concurrent=max_concurrent,
    )
    grid = [{"cell_id": cell_id} for cell_id in costs]
    search.set_search_properties(None, None, {"trial": {"grid_search": grid}})
    experiment = Experiment("test", "Trainable", storage_path=str(tmp_path))
    search.add_configurations(experiment)
    return search


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
    assert trials[0].config == {"cell_id": "b"}
    assert search.next_trial() is None
    assert search.is_finished()


def test_no_more_trials_live_than_allowed(tmp_path):
    search = make({"a": 1.0, "b": 3.0, "c": 2.0}, max_concurrent=2, tmp_path=tmp_path)
    search.next_trial()
    search.next_trial()
    assert search.next_trial() is None
    assert not search.is_finished()
    search.on_trial_complete("b")
    assert search.next_trial().trial_id == "a"


def test_nothing_is_released_once_stopping(tmp_path):
    stopping = []
    search = make({"a": 1.0, "b": 3.0}, stopping=lambda: bool(stopping), tmp_path=tmp_path)
    search.next_trial()
    stopping.append(True)
    assert search.next_trial() is None
    assert search.is_finished()
