"""The published study on simulated clusters: its order of release leaves hardly a GPU idle."""

import pytest

from experiments.benchmarks.packing import cells_and_work, configs, simulate
from orchestrator.study.study import load_study
from trainables.trial.config import TrialConfig


@pytest.fixture(scope="module")
def paper():
    study = load_study("paper")
    cells, work = cells_and_work(study)
    return configs(study, cells), work


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16, 32, 64])
def test_the_published_study_takes_hardly_longer_than_it_must(paper, gpus):
    cells, work = paper
    outcome = simulate(cells, work, gpus)
    assert len(outcome.started) == len(cells) == 636
    assert outcome.bound <= outcome.makespan <= 1.05 * outcome.bound
    assert outcome.makespan * gpus >= sum(work.values())


def test_students_start_when_their_teachers_have_ended():
    empty = dict.fromkeys(("cell", "folder", "stop_file", "index_folder"), "")
    cells = [
        TrialConfig(cell_id="t", gpu=0.5, **empty),
        TrialConfig(cell_id="s", prerequisite="t", gpu=1, workers=2, **empty),
        TrialConfig(cell_id="x", gpu=1, **empty),
    ]
    outcome = simulate(cells, {"t": 1.0, "s": 6.0, "x": 4.0}, 2)
    assert outcome.started == {"t": 0.0, "x": 0.0, "s": 4.0}  # Both GPUs at once.
    assert (outcome.makespan, outcome.bound, outcome.chain) == (7.0, 5.5, 5.0)
