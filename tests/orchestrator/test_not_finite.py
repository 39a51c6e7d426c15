"""A study whose learning rates are too high: one cell is rescued by half of it, one is lost."""

import json

import pandas as pd
import pytest
import yaml
from launching import BRIEFLY

from orchestrator.cli import main
from orchestrator.store.stored_cell import CellState
from orchestrator.watching.status import last_status

STUDY = {
    "name": "diverging",
    "defaults": {"dataset": ["digits"], "capacity": ["tiny"], "reduction_loc": [3, 6, 9]},
    "grids": [
        {"method": ["topk"], "keep_rate": [0.5], "recipe": "rescued"},
        {"method": ["tome"], "keep_rate": [0.5], "recipe": "lost"},
    ],
    "recipes": {},
    "measure": BRIEFLY,
}
STEEP = {
    "host": "digits_{capacity}_patch4_32",
    "pretrained": False,
    "image_size": 32,
    "epochs": 1,
    "warmup_epochs": 0,
    "batch_size": 700,  # Two steps.
    "accumulation": 1,
    "lr_reference_batch": 700,
    "ema_decay": None,
    "rand_augment": None,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "drop_path": 0.0,
    "label_smoothing": 0.0,
    "weight_decay": 0.0,
}
"""With a learning rate from 65 on, the second step's gradients have no finite norm. Clipping does
not help: the first step of AdamW does not depend on how long a gradient is."""


@pytest.fixture(scope="module")
def diverged(tmp_path_factory, launch_study):
    storage = tmp_path_factory.mktemp("diverging")
    recipes = {"rescued": STEEP | {"lr": 100.0}, "lost": STEEP | {"lr": 1e30}}
    file = storage / "diverging.yaml"
    file.write_text(yaml.safe_dump(STUDY | {"recipes": recipes}))
    return launch_study(storage, study=str(file))


def cell_of(diverged, method):
    ids = [cell_id for cell_id in diverged.store.cell_ids() if method in cell_id]
    return diverged.store.cell(*ids)


def test_a_cell_is_rescued_and_says_how(diverged):
    cell = cell_of(diverged, "topk")
    assert cell.state() is CellState.DONE
    result = cell.result()
    clipped, halved = {"clip_grad": 1.0}, {"lr": 50.0, "min_lr": 5e-6, "warmup_lr": 5e-7}
    assert [attempt["gentler"] for attempt in result["attempts"]] == [{}, clipped]
    assert [attempt["step"] for attempt in result["attempts"]] == [1, 1]
    assert all(attempt["found"]["classification"] > 1e4 for attempt in result["attempts"])
    assert [attempt["found"]["gradient norm"] for attempt in result["attempts"]] == ["inf"] * 2
    assert result["gentler"] == clipped | halved
    assert cell.cell().recipe.lr == 100.0
    assert cell.cell().id == cell.id
    assert 0 <= result["data_wait"] <= 1
    assert result["train_seconds"] > 0


def test_a_cell_is_given_up_with_all_its_attempts(diverged):
    cell = cell_of(diverged, "tome")
    assert (diverged.status, cell.state()) == (1, CellState.FAILED)
    assert [attempt["attempt"] for attempt in cell.attempts()] == [1, 2, 3]
    error = cell.error()
    for number, gentler in enumerate(("", " with clip_grad 1", " with clip_grad 1, lr 5e+29"), 1):
        assert f"attempt {number}{gentler}" in error
    assert "ran from step 0 to 1, where a value was not finite: classification nan, grad" in error
    assert cell.reason().startswith("not finite in 3 attempts; classification nan, gradient norm")
    assert cell.reason().endswith("or fix the data and start over with --retry-failed")
    assert "Traceback" not in error
    assert not any("attempt failed" in str(entry) for entry in cell.log())


def test_the_log_has_every_attempt_as_json(diverged):
    for method, expected in (("topk", [1, 2]), ("tome", [1, 2, 3])):
        lines = (cell_of(diverged, method).path / "log.jsonl").read_text().splitlines()
        entries = [json.loads(line, parse_constant=pytest.fail) for line in lines]
        attempts = [e["attempt"] for e in entries if e.get("event") == "not finite"]
        assert attempts == expected


def test_the_console_table_and_page_say_it(diverged, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    rescued, lost = cell_of(diverged, "topk"), cell_of(diverged, "tome")
    assert f"{rescued.id}: attempt 1 ran from step 0 to 1, where a value was" in diverged.output
    assert "; continuing from its last good state with clip_grad 1\n" in diverged.output
    assert f"failed: {lost.id}: not finite in 3 attempts" in diverged.output
    table = pd.read_parquet(diverged.store.tables / "results.parquet").set_index("cell_id")
    gentlest = "clip_grad 1, lr 50, min_lr 5e-06, warmup_lr 5e-07"
    assert table.loc[rescued.id, ["not_finite", "gentler"]].tolist() == [2, gentlest]
    assert table.loc[lost.id, "not_finite"] == 3
    assert 0 <= table.loc[rescued.id, "data_wait"] <= 1
    page = diverged.store.report.read_text()
    assert f"trained more gently after 2 attempts that were not finite: {gentlest}" in page
    told = {reason.cell: reason.reason for reason in last_status(diverged.store).gentler}
    assert told.keys() == {rescued.id, lost.id}, "as the driver told while it ran"
    assert told[rescued.id] == gentlest
    for command in ("status", "cells"):
        with pytest.raises(SystemExit):
            main([command, str(diverged.storage)])
        assert gentlest in capsys.readouterr().out


@pytest.mark.slow
def test_a_later_launch_is_as_gentle_and_retry_failed_begins_anew(diverged, launch_study):
    cell = cell_of(diverged, "tome")
    file = str(diverged.storage / "diverging.yaml")
    again = {"study": file, "only": [cell.id], "phases": ["train", "evaluate"]}
    gentlest = cell.attempts()[-1]["gentler"]
    assert launch_study(diverged.storage, **again).status == 1
    assert [attempt["gentler"] for attempt in cell.attempts()[3:]] == [gentlest]
    assert cell.reason().startswith("not finite in 4 attempts")
    assert launch_study(diverged.storage, retry_failed=True, **again).status == 1
    gentler = [attempt["gentler"] for attempt in cell.attempts()]
    assert gentler == [{}, {"clip_grad": 1.0}, gentlest]
    logged = [entry for entry in cell.log() if entry.get("event") == "not finite"]
    assert len(logged) == 3 + 1 + 3
