"""Cells get the values that their trials have chosen, said once for all cells of a choice."""

import json

from made_cells import CELL

from orchestrator.store.searches import Candidate, Search
from orchestrator.study.trials import Searches
from orchestrator.training.choices import Choices
from trainables.trial.config import TrialConfig

TRIALS = ("a-trial-0", "a-trial-1")
SEARCH = Search(
    recipe="mine",
    place={"method": "topk"},
    scheduler="none",
    candidates=[
        Candidate(values={"lr": rate}, trials=(trial,))
        for rate, trial in zip((0.1, 0.2), TRIALS, strict=True)
    ],
    cells=("one", "two"),
)


def config(cell_id):
    return TrialConfig(
        cell_id=cell_id, cell=CELL.model_dump_json(), folder="", stop_file="", index_folder=""
    )


def test_every_cell_of_a_search_begins_with_its_values_and_others_as_they_are(store):
    for trial, accuracy in zip(TRIALS, (50.0, 60.0), strict=True):
        store.cell(trial).save_best(b"weights", {})
        store.cell(trial).write_result({"accuracy": accuracy, "loss": 1.0})
    said = []
    choices = Choices(store, Searches([SEARCH]), said.append)
    begun = [choices.applied(config(cell)) for cell in ("one", "two", "three")]
    assert [json.loads(each.tuned) for each in begun] == [{"lr": 0.2}, {"lr": 0.2}, {}]
    assert said == [
        "mine, topk: lr 0.2 (60.00 % on held-out images); lr is at the edge of what was tried "
        "(0.1 to 0.2)"
    ]


def test_a_tuned_cell_keeps_its_id():
    tuned = CELL.tuned({"lr": 0.25})
    assert (tuned.id, tuned.recipe.lr) == (CELL.id, 0.25)
    assert CELL.tuned({}) is CELL
