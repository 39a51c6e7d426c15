"""The files for TensorBoard and in CSV say what the cell's log says, however it got there."""

import csv
import json
import os
import tempfile
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest
from events_file import hyperparameters, scalars
from reports import report

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.watching.cell_logs import EVENT_FILES, SPREADSHEET, CellLogs
from orchestrator.watching.status import Activity
from orchestrator.watching.tracker import curve, metrics_of


def points(metric, reports):
    """What a curve of a metric must show: (value, time) by step, where there is a value."""
    found = {entry.report.step: (metrics_of(entry.report), entry.time) for entry in reports}
    flat = {
        step: (metrics | {f"loss_terms/{n}": v for n, v in (metrics["loss_terms"] or {}).items()})
        for step, (metrics, _) in found.items()
    }
    return {
        step: (pytest.approx(metrics[metric]), pytest.approx(found[step][1], abs=1.0))
        for step, metrics in flat.items()
        if metrics[metric] is not None
    }


def assert_as_logged(stored):
    """Both files of a cell show its log."""
    reports = curve(stored.log())
    assert reports
    (file,) = stored.path.glob(EVENT_FILES)
    shown = scalars(file)
    for name in ("epoch", "loss", "lr", "accuracy", "images_per_second"):
        expected = points(name, reports)
        assert shown.get(f"ray/tune/{name}", {}) == expected
        assert shown["ray/tune/loss_terms/classification"] == points(
            "loss_terms/classification", reports
        )
    rows = list(csv.DictReader((stored.path / SPREADSHEET).read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [entry.report.step for entry in reports]
    for row, entry in zip(rows, reports, strict=True):
        assert float(row["loss"]) == entry.report.loss
        terms = entry.report.loss_terms
        assert float(row["loss_terms/classification"]) == terms["classification"]
        accuracy = metrics_of(entry.report)["accuracy"]
        assert row["accuracy"] == ("" if accuracy is None else str(accuracy))


@pytest.fixture
def notes():
    return []


@pytest.fixture
def logs(study, notes):
    """The logs of a launch."""
    with CellLogs(study.store, notes.append) as logs:
        yield logs


def test_every_report_is_in_both_files(study, logs, notes):
    for cell in study.cells:
        logs.changed(cell, Activity.RUNNING)
    study.train(logs, study.cells[0], 5, 10, 15)
    study.train(logs, study.cells[1], 10, 20, 30)
    for cell in study.cells:
        logs.changed(cell, Activity.EVALUATING)
        assert_as_logged(study.store.cell(cell))
    assert notes == []


def test_readers_see_a_report_at_once(study, logs):
    for step in (5, 10, 15):
        study.train(logs, study.cells[0], step)
        assert_as_logged(study.store.cell(study.cells[0]))


def test_a_resumed_cell_goes_on_in_one_curve(study, notes):
    """The second launch goes on from an earlier state than the last report of the first."""
    cell = study.cells[0]
    with CellLogs(study.store, notes.append) as first:
        study.train(first, cell, 5, 10, 15)
        first.changed(cell, CellState.INTERRUPTED)
    with CellLogs(study.store, notes.append) as second:
        study.train(second, cell, 12, 20, 30)
    assert [entry.report.step for entry in curve(study.store.cell(cell).log())] == [
        5,
        10,
        12,
        20,
        30,
    ]
    assert_as_logged(study.store.cell(cell))


def test_what_a_killed_launch_did_not_write_is_made_up_for(study, logs):
    cell = study.cells[0]
    for step in (5, 10, 15):
        study.store.cell(cell).append_log(report(step).entry())
    study.train(logs, cell, 20)
    assert_as_logged(study.store.cell(cell))


def test_an_attempt_that_goes_back_replaces_what_it_repeats(study, logs):
    cell = study.cells[0]
    study.train(logs, cell, 5, 10, 20)
    study.store.cell(cell).append_log({"event": "not finite", "step": 21, "first_step": 0})
    study.train(logs, cell, 15, 25)
    assert [entry.report.step for entry in curve(study.store.cell(cell).log())] == [5, 10, 15, 25]
    assert_as_logged(study.store.cell(cell))


def test_the_cell_is_shown_as_hyperparameters(study, logs):
    cell = study.cells[0]
    study.train(logs, cell, 10)
    logs.changed(cell, Activity.EVALUATING)
    (file,) = study.store.cell(cell).path.glob(EVENT_FILES)
    shown = hyperparameters(file)
    assert shown["method"] == "topk"
    assert shown["keep_rate"] == 0.5
    assert shown["recipe/pretrained"] is True
    assert shown["recipe/epochs"] == 3
    assert json.loads(shown["reduction_loc"]) == [3, 6, 9]
    assert json.loads(shown["recipe/clip_grad"]) is None


def test_reports_without_training_leave_no_files(study, logs):
    cell = study.cells[0]
    nothing = report(0, loss=None, loss_terms=None, epoch_ended=False, preparing="a cache")
    study.store.cell(cell).append_log(nothing.entry())
    logs.reported(cell, nothing)
    logs.changed(cell, CellState.INTERRUPTED)
    assert {path.name for path in study.store.cell(cell).path.iterdir()} == {
        "cell.json",
        "log.jsonl",
    }


def test_a_cell_of_no_epochs_has_its_accuracy(study, logs):
    cell = study.cells[0]
    only = report(0, loss=None, loss_terms=None, lr=None, accuracy=7.0, best_accuracy=7.0)
    study.store.cell(cell).append_log(only.entry())
    logs.reported(cell, only)
    (file,) = study.store.cell(cell).path.glob(EVENT_FILES)
    assert scalars(file)["ray/tune/accuracy"].keys() == {0}
    assert "ray/tune/loss" not in scalars(file)


def test_a_storage_that_cannot_be_written_is_told_once(study, logs, notes):
    for cell in study.cells:
        (study.store.cell(cell).path / SPREADSHEET).mkdir()
    for cell in study.cells:
        study.train(logs, cell, 10, 20)
        logs.changed(cell, Activity.EVALUATING)
    (note,) = notes
    assert note.startswith(f"{study.cells[0]}: cannot write TensorBoard and CSV logs: ")


def open_files(folder):
    """Names of the files under a folder that this process holds open."""
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # Another thread's, closed since.
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            names += [path.name] * path.is_relative_to(folder)
    return sorted(names)


def test_ended_cells_keep_no_file_open(study, logs):
    cell = study.cells[0]
    study.train(logs, cell, 10)
    events, table = open_files(study.store.path)
    assert fnmatch(events, EVENT_FILES)
    assert table == SPREADSHEET
    for step in range(11, 31):
        logs.changed(cell, Activity.RUNNING)
        assert open_files(study.store.path) == []
        study.train(logs, cell, step)
    logs.changed(cell, Activity.RUNNING)
    assert open_files(study.store.path) == []


def test_an_object_store_gets_the_files(study_in_s3, notes, tmp_path, monkeypatch):
    """Soon after the first report, and again as the trial ends; none are left on this machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stored = study_in_s3.store.cell(study_in_s3.cells[0])
    with CellLogs(study_in_s3.store, notes.append) as logs:
        study_in_s3.train(logs, stored.id, 5)
        assert_as_logged(stored)
        study_in_s3.train(logs, stored.id, 10, 15)
        (file,) = stored.path.glob(EVENT_FILES)
        assert scalars(file)["ray/tune/loss"].keys() == {5}
        logs.changed(stored.id, CellState.INTERRUPTED)
        assert_as_logged(stored)
    with CellLogs(study_in_s3.store, notes.append) as logs:
        study_in_s3.train(logs, stored.id, 12, 20)
    assert_as_logged(stored)
    assert notes == []
    assert list(tmp_path.iterdir()) == []


def test_a_launch_writes_them_for_every_cell(finished):
    """The smoke study on Ray."""
    store: Store = finished.store
    for cell in store.cell_ids():
        assert_as_logged(store.cell(cell))
