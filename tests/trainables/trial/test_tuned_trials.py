"""Trials of a tuning, and cells that are trained at the values that these chose."""

import json
from dataclasses import replace

import pytest

from trainables.cell.cell_folder import CellFolder
from trainables.cell.report import Ending, TrialReport
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


def log_of(folder):
    return [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]


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
    assert not {"tuned", "loss", "stopped"} & set(result_of(CellFolder(tmp_path / "plain")))


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_trial_that_is_to_stop_ends_with_what_it_has(
    make_cell, trial_config, folder, interrupted
):
    cell = make_cell(select_on="holdout").model_copy(update={"trial": "asha"})
    config = TrialConfig.from_dict(trial_config(cell))
    training = CellTraining(config)
    report = TrialReport()
    while not (report.training and report.training.epoch_ended):
        report = training.step()
    assert log_of(folder)[-1]["epoch_ended"]  # Nothing is left to write as it is decided about.
    assert folder.saved_step() == report.training.step
    score = report.training.accuracy
    folder.add_rung({"epoch": 1, "accuracy": score, "stops": True, "time": 0.0})
    if interrupted:
        training.close()
        training = CellTraining(config)
    (last,) = to_the_end(training)
    assert last.ending is Ending.FINISHED
    result = result_of(folder)
    assert (result["stopped"], result["accuracy"], result["epoch"]) == (True, score, 1)
    assert result["loss"] > 0
    entries = log_of(folder)
    assert sum(entry.get("event") == "rung" for entry in entries) == 1
    assert not any(entry.get("epoch", 0) > 1 for entry in entries)
