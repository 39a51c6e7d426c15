"""A study that tunes, killed at random: the same choices and weights, and no decision twice."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter

import pandas as pd
import pytest
from launching import STUDY, Launch, assert_resumed

from orchestrator.cli import main
from orchestrator.store.searches import read_searches, stored_choice

pytestmark = pytest.mark.slow

TUNED = STUDY | {
    "name": "tuned",
    "grids": [STUDY["grids"][1] | {"method": ["dpcknn"]}],  # It draws in training.
    "tuning": {"everything": {"values": {"lr": [1e-5, 1e-3]}, "epochs": 1}},
}
"""Two trials of 15 steps and a cell of 30 that waits for them."""
HALVED = TUNED | {
    "name": "halved",
    "tuning": {"everything": {"values": {"lr": [1e-3, 1e-5, 3e-6]}, "scheduler": "asha"}},
}
"""Three trials of two epochs, with a rung after the first."""
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
    step = draw.randint(14, 18)  # About the rung, after 15 steps.
    gate.close(after=step, cells=TRIALS)
    launch = Launch(tmp_path, study=HALVED, env=gate.env)
    launch.wait_for_step(step, TRIALS)
    os.kill(draw.choice(launch.trainers()), signal.SIGKILL)
    launch.process.kill()
    launch.end()
    gate.open()
    again = Launch(tmp_path, study=HALVED)
    again.end(0)
    decided = Counter()
    for trial in again.store.trial_ids():
        stored = again.store.cell(trial)
        logged = [entry for entry in stored.log() if entry.get("event") == "rung"]
        assert [json.dumps(rung) for rung in stored.rungs()] == [
            json.dumps({name: entry[name] for name in ("epoch", "accuracy", "stops", "time")})
            for entry in logged
        ]
        decided.update((trial, rung["epoch"]) for rung in stored.rungs())
        stops = [rung for rung in stored.rungs() if rung["stops"]]
        assert stored.result()["stopped"] == bool(stops)
        assert max(again.steps()[trial]) == (15 if stops else 30)
    assert set(decided.values()) == {1}
    assert len(decided) == 3
    (choice,) = choices(again)
    (reported,) = again.store.cell_ids()
    assert again.store.cell(reported).result()["tuned"] == dict(choice.values)
