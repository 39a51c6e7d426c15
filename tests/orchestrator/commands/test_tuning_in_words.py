"""What is told of a tuning: the list of its trials, and what a launch would take."""

import re

from made_cells import CELL

from orchestrator.store.searches import Candidate, Search, write_searches
from trainables.cell.cell import Cell
from trainables.cell.report import Report

TRIALS = [
    Cell.model_validate(
        CELL.model_dump()
        | {"trial": "none", "seed": 1000, "recipe": CELL.recipe.model_dump() | {"lr": rate}}
    )
    for rate in (0.1, 0.2)
]


def test_trials_are_listed_apart_with_what_they_try_and_what_was_chosen(call, store):
    search = Search(
        recipe="mine",
        place={"method": "topk"},
        scheduler="none",
        candidates=[
            Candidate(values={"lr": trial.recipe.lr}, trials=(trial.id,)) for trial in TRIALS
        ],
        cells=(CELL.id,),
    )
    store.create({"name": "study"}, [CELL], TRIALS)
    write_searches(store, [search])
    for trial, accuracy in zip(TRIALS, (90.0, 80.0), strict=True):
        store.cell(trial.id).save_best(b"weights", {})
        stored = store.cell(trial.id)
        stored.append_log(Report(step=3, epoch=1, epochs=4, best_accuracy=accuracy).entry())
        stored.add_rung({"epoch": 1, "accuracy": accuracy, "stops": accuracy < 90, "time": 0.0})
        stored.write_result({"accuracy": accuracy, "loss": 0.25, "stopped": accuracy < 90})
    status, out, _ = call("cells", store.path, "--tuning")
    rows = [" ".join(line.split()) for line in out[1:]]
    assert status == 0
    assert rows == [
        f"{TRIALS[0].id} mine, topk lr 0.1 done 1/4 90.00 % 0.250 chosen",
        f"{TRIALS[1].id} mine, topk lr 0.2 stopped 1/4 80.00 % 0.250",
    ]
    _, out, _ = call("cells", store.path)
    assert [line.split()[0] for line in out[1:]] == [CELL.id]
    _, out, _ = call("clean", store.path, "--orphans")
    assert out == ["nothing to remove"]


def test_a_study_that_tunes_nothing_has_no_trials_to_list(call, store):
    status, _, err = call("cells", store.path, "--tuning")
    assert status == 2
    assert err.startswith(f"error: {store.path} has no section tuning")


def test_a_dry_run_says_what_trials_cost_and_that_cells_wait(call, tmp_path):
    setting = 'tuning.smoke={"values": {"lr": [1e-4, 1e-3, 1e-2]}}'
    options = ("--study", "smoke", "--set", setting, "--only", "*-topk-*-r0.25-*")
    status, out, _ = call("run", *options, "--storage", tmp_path / "runs", "--dry-run")
    assert status == 0
    out = "\n".join(out)
    assert "waiting for its choice" in out
    assert "1 cells: 1 pending" in out
    assert "also selected to choose values of recipes: 3 trials" in out
    assert "tuning smoke: " in out
    share = re.search(r" about \S+ GPU hours, (\d+) % of what is left$", out, re.MULTILINE)
    assert 75 < int(share[1]) < 100  # Three trials that keep more than the cell does.


def test_a_dry_run_says_that_halved_trials_cost_less(call, tmp_path):
    setting = 'tuning.smoke={"values": {"lr": [1e-4, 1e-3]}, "scheduler": "asha"}'
    options = ("--study", "smoke", "--set", setting, "--only", "*-topk-*-r0.25-*")
    _, out, _ = call("run", *options, "--storage", tmp_path / "runs", "--dry-run")
    (line,) = (line for line in out if line.startswith("tuning smoke: "))
    assert " at most " in line
    assert line.endswith("; asha stops those that are behind")
