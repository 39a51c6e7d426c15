"""Cells that are trained at the values that their trials chose."""

import json
from dataclasses import replace

import pytest

from trainables.cell.cell_folder import CellFolder
from trainables.trial.cell_training import CellTraining
from trainables.trial.config import TrialConfig


@pytest.fixture
def folder(tmp_path):
    return CellFolder(tmp_path / "cell")


def to_the_end(training):
    reports = []
    while not reports or not reports[-1].done:
        reports.append(training.step())
    return reports


def result_of(folder):
    return json.loads((folder.path / "result.json").read_text())


def test_a_tuned_cell_is_the_cell_of_that_recipe_and_records_what_was_chosen(
    make_cell, trial_config, folder, tmp_path
):
    tuned = replace(TrialConfig.from_dict(trial_config(make_cell(epochs=1))), tuned='{"lr": 0.02}')
    to_the_end(CellTraining(tuned))
    weights, result = folder.load_best(), result_of(folder)
    assert result["tuned"] == {"lr": 0.02}
    plain = replace(
        TrialConfig.from_dict(trial_config(make_cell(epochs=1, lr=0.02))),
        folder=str(tmp_path / "plain"),
    )
    to_the_end(CellTraining(plain))
    assert CellFolder(tmp_path / "plain").load_best() == weights
    assert not {"tuned", "loss"} & set(result_of(CellFolder(tmp_path / "plain")))
