"""A study that tunes, killed at random: the same choices and weights, and no decision twice."""

import os
import random
import signal
import sys
import time
from contextlib import suppress

import pandas as pd
import pytest
from launching import STUDY, Launch, assert_resumed

from orchestrator.cli import main
from orchestrator.store.searches import read_searches, stored_choice
from orchestrator.training.halving import MAY_DIFFER

pytestmark = pytest.mark.slow

TUNED = STUDY | {
    "name": "tuned",
    "grids": [STUDY["grids"][1] | {"method": ["dpcknn"]}],  # It draws in training.
    "tuning": {"everything": {"values": {"lr": [1e-5, 1e-3]}, "epochs": 1}},
}
"""Two trials of an epoch and a cell of 30 that waits for them."""
HALVED = TUNED | {
    "name": "halved",
    "tuning": {"everything": {"values": {"lr": [1e-3, 1e-5, 3e-6]}, "scheduler": "asha"}},
}
"""Three trials of two epochs, with a rung after the first."""
EPOCH = 14
"""Steps of one: the holdout leaves 95 % of the images."""
TRIALS, REPORTED = "*-trial-*", "*-s0-*"


def choices(launch):
    return [stored_choice(launch.store, search) for search in read_searches(launch.store)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    launch = Launch(tmp_path_factory.mktemp("tuned"), study=TUNED, stages="train,evaluate,compare")
    launch.end(0)
    return launch


@pytest.fixture
def draw():
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 2**32))
    sys.stdout.write(f"repeat the same kills with FAULT_SEED={seed}\n")  # Shown if it fails.
    return random.Random(seed)


def test_kills_while_trials_and_chosen_cells_train_change_nothing(
    tmp_path, undisturbed, gate, draw
):
    for cells in (TRIALS, REPORTED):
        step = draw.randint(1, 12)
        gate.close(after=step, cells=cells)
        launch = Launch(tmp_path, study=TUNED, env=gate.env)
        launch.wait_for_step(step, cells)
        launch.process.kill()
        launch.end()
        gate.open()
    again = assert_resumed(tmp_path, undisturbed.weights(), launch.results(), study=TUNED)
    assert choices(again) == choices(undisturbed)


def test_a_cell_is_trained_as_chosen_and_trials_are_reported_nowhere(undisturbed, capsys):
    store = undisturbed.store
    (reported,) = store.cell_ids()
    (choice,) = choices(undisturbed)
    result = store.cell(reported).result()
    assert result["tuned"] == dict(choice.values)
    trials = {trial: store.cell(trial) for trial in store.trial_ids()}
    best = max(trials.values(), key=lambda t: (t.result()["accuracy"], -t.result()["loss"]))
    assert best.cell().recipe.lr == choice.values["lr"]
    assert {trial.result()["select_on"] for trial in trials.values()} == {"holdout"}
    assert not any(list(trial.path.glob("eval.json")) for trial in trials.values())
    assert set(pd.read_parquet(store.tables / "results.parquet")["cell_id"]) == {reported}
    table = pd.read_parquet(store.tables / "tuning.parquet")
    assert set(table["cell_id"]) == set(trials)
    assert list(table.loc[table["chosen"], "cell_id"]) == [best.id]
    for arguments, listed in ((["--tuning"], trials), ([], {reported})):
        with pytest.raises(SystemExit):
            main(["cells", str(store.path), *arguments])
        printed = "".join(capsys.readouterr().out.split())
        assert {cell for cell in (*trials, reported) if cell in printed} == set(listed)


def test_with_halving_no_rung_is_decided_twice_whatever_kills_a_launch(tmp_path, gate, draw):
    step = draw.randint(EPOCH - 1, EPOCH + 2)
    gate.close(after=step, cells=TRIALS)
    launch = Launch(tmp_path, study=HALVED, stages="train", env=gate.env)
    launch.wait_for_step(step, TRIALS)  # The first to arrive goes on, whatever it has reached.
    with suppress(ProcessLookupError):  # It may have been about to end.
        os.kill(draw.choice(launch.trainers()), signal.SIGKILL)
    launch.process.kill()
    launch.end()
    gate.open()
    again = Launch(tmp_path, study=HALVED, stages="train")
    again.end(0)
    assert again.console.count(MAY_DIFFER) == 1
    steps = again.steps()
    trials = {trial: again.store.cell(trial) for trial in again.store.trial_ids()}
    assert len(trials) == 3
    for trial, stored in trials.items():
        (rung,), result = stored.rungs(), stored.result()
        (logged,) = (entry for entry in stored.log() if entry.get("event") == "rung")
        assert logged == {"event": "rung", **rung}
        assert rung["epoch"] == 1
        assert result["stopped"] == rung["stops"]
        assert max(steps[trial]) == result["total_steps"] // (2 if rung["stops"] else 1)
    (choice,) = choices(again)
    (reported,) = again.store.cell_ids()
    assert again.store.cell(reported).result()["tuned"] == dict(choice.values)
