"""The search algorithm: one trial for each configuration, named after its cell."""

from dataclasses import replace

import pytest
from ray.tune import Trainable, register_trainable
from ray.tune.experiment import Experiment

from orchestrator.training.tune import CellSearch
from trainables.trial.config import TrialConfig


class Source:
    """Releases what is in its list, and is finished once that is empty."""

    def __init__(self, *configs):
        self.waiting = list(configs)

    def __len__(self):
        return len(self.waiting)

    def next(self):
        return self.waiting.pop(0) if self.waiting else None

    def retries(self, config):
        return 2 if config.cell_id == "a" else 0

    def is_finished(self):
        return not self.waiting


def config(cell_id):
    return TrialConfig(cell_id=cell_id, cell="", folder="", stop_file="", index_folder="")


@pytest.fixture
def search(tmp_path):
    """Return a function that makes the search over some cells."""
    register_trainable("Trainable", type("Trainable", (Trainable,), {}))

    def make(*cells):
        search = CellSearch(Source(*map(config, cells)))
        assert search.set_search_properties(None, None, {})
        search.add_configurations(Experiment("test", "Trainable", storage_path=str(tmp_path)))
        return search

    return make


def test_a_trial_has_its_cell_s_name_configuration_and_retries(search):
    cells = search("b", "a")
    assert cells.total_samples == 2
    trials = [cells.next_trial() for _ in range(2)]
    assert [trial.trial_id for trial in trials] == ["b", "a"]
    assert [trial.max_failures for trial in trials] == [0, 2]
    assert TrialConfig.from_dict(trials[0].config) == config("b")
    assert cells.next_trial() is None
    assert cells.is_finished()


def test_further_trials_of_a_cell_are_numbered(search):
    cells = search("a", "b")
    assert cells.next_trial().trial_id == "a"
    cells._source.waiting += [replace(config("a"), cpu=2.0)] * 2
    assert [cells.next_trial().trial_id for _ in range(3)] == ["b", "a~2", "a~3"]


def test_tune_is_left_nothing_to_save_of_a_trial(search):
    assert search("a").next_trial().get_json_state() == ("{}", "{}")
