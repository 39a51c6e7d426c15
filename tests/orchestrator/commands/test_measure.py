"""`tokensweep measure`, with measurements that are made up, but for one."""

import pandas as pd
import pytest
import torch
from made_cells import CELL, finish

from orchestrator.cli import main
from orchestrator.commands import measure
from orchestrator.store.measurements import Measurements
from orchestrator.store.store import Store
from trainables.measuring.configuration import Configuration
from trainables.measuring.measuring import Place
from trainables.measuring.surroundings import device_facts
from trainables.recipe import Recipe

TINY = CELL.model_copy(
    update={"recipe": Recipe(host="digits_{capacity}_patch4_32", image_size=32, pretrained=False)}
)
ATS = TINY.model_copy(update={"method": "ats"})
SETTINGS = {"batch_sizes": [2], "rounds": 7, "seconds": 1e-3, "precision": "auto", "compile": False}


@pytest.fixture
def study(tmp_path):
    store = Store(tmp_path / "results" / "study")
    store.create({"name": "study", "measure": SETTINGS}, [TINY, ATS])
    return store


@pytest.fixture
def made_up(monkeypatch):
    """Stands for the measurement itself; returns what was asked of it."""
    asked, outcomes = [], []

    def measure_on(store, job, data, place, *, by_study):
        asked.append((job.configuration.cell.method, job.batch_sizes, place, by_study))
        if outcomes:
            raise outcomes.pop()

    monkeypatch.setattr(measure, "measure_on", measure_on)
    return asked, outcomes


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["measure", *map(str, arguments)])
    return exit_.value.code


def test_a_model_is_measured_here_and_shown_in_the_tables(study, capsys):
    assert run(study.path, "--device", "cpu", "--only", "*-topk-*") == 0
    (row,) = pd.read_parquet(study.tables / "speed.parquet").to_dict(orient="records")
    assert (row["cell_id"], row["batch_size"], row["rounds"]) == (TINY.id, 2, 7)
    assert row["speed_up_low"] <= row["speed_up"] <= row["speed_up_high"]
    assert row["device_type"] == "cpu"
    assert row["tokens"].tolist() == [32, 16, 8]
    said = capsys.readouterr().out
    assert "1 configurations to measure on" in said
    assert f"tokensweep report {study.path}" in said


@pytest.mark.parametrize(("disturbed", "again"), [(False, 0), (True, 1)])
def test_what_is_measured_stays_unless_it_was_disturbed(study, made_up, disturbed, again):
    asked, _ = made_up
    known, record = Measurements(study.measurements), {"disturbed": disturbed}
    facts = device_facts(torch.device("cpu"), torch.get_num_threads())
    configuration = Configuration.of(TINY, None, "auto", compiled=False)
    known.add(configuration, facts, 2, record, by_study=False)
    run(study.path, "--device", "cpu", "--only", "*-topk-*")
    assert len(asked) == again


def test_cells_that_are_not_trained_are_named(study, made_up, capsys):
    asked, _ = made_up
    assert run(study.path, "--device", "cpu") == 0
    assert [method for method, *_ in asked] == ["topk"]
    assert "ats at 0.5 on digits_tiny_patch4_32" in capsys.readouterr().out
    finish(study.cell(ATS.id))
    assert run(study.path, "--device", "cpu") == 0
    assert [method for method, *_ in asked] == ["topk", "topk", "ats"]


def test_it_is_measured_where_it_is_typed(study, made_up):
    asked, _ = made_up
    run(study.path, "--device", "cpu", "--only", "*-topk-*")
    place = Place(torch.device("cpu"), torch.get_num_threads(), None)
    assert asked == [("topk", (2,), place, False)]


def test_what_fails_is_told_and_the_rest_is_measured(study, made_up, capsys):
    asked, outcomes = made_up
    finish(study.cell(ATS.id))
    outcomes.append(RuntimeError("no kernel\nat line 3"))
    assert run(study.path, "--device", "cpu") == 1
    assert len(asked) == 2
    assert "not measured: no kernel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cuda:7"], "--device is 'cuda:7', but must be one of: cpu"),
        (["--device", "tpu"], "--device is 'tpu', but must be one of: cpu"),
        (["--only", "nothing*"], "--only nothing* matches none of the 2 cells"),
    ],
)
def test_a_mistake_is_one_line(study, arguments, words, capsys):
    assert run(study.path, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_folder_without_a_study_is_refused(tmp_path, capsys):
    assert run(tmp_path) == 2
    assert "no study" in capsys.readouterr().err
