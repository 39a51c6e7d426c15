"""Successive halving of trials: what it decides, what it records, and what it takes up again."""

import pytest

from orchestrator.store.searches import Candidate, Search
from orchestrator.training.halving import MAY_DIFFER, Halving
from trainables.cell.report import Report

TRIALS = tuple(f"a-s1-trial-{n}" for n in range(6))


def search(scheduler="asha"):
    return Search(
        recipe="mine",
        place={},
        scheduler=scheduler,
        candidates=[
            Candidate(values={"lr": float(n)}, trials=(trial,)) for n, trial in enumerate(TRIALS)
        ],
        cells=(),
    )


def after(epoch, accuracy, epochs=16):
    return Report(epoch=epoch, epochs=epochs, accuracy=accuracy, epoch_ended=True)


@pytest.fixture
def halving(store):
    return Halving(store, [search()], lambda line: pytest.fail(line))


def decisions(store):
    return {
        trial: [(rung["epoch"], rung["stops"]) for rung in store.cell(trial).rungs()]
        for trial in TRIALS
        if store.cell(trial).rungs()
    }


def test_what_is_not_in_the_best_quarter_of_those_before_it_stops(store, halving):
    for trial, accuracy in zip(TRIALS, (50.0, 60.0, 40.0, 55.0, 70.0, 59.0), strict=True):
        halving.reported(trial, after(1, accuracy))
    stops = [store.cell(trial).rungs()[0]["stops"] for trial in TRIALS]
    # The upper quartiles of what came before: none, 50, 57.5, 55, 56.25, 60.
    assert stops == [False, False, True, False, False, True]


def test_decisions_are_made_after_rungs_alone_once_and_logged(store, halving):
    for epoch in (1, 2, 3, 4, 4, 5, 16):
        halving.reported(TRIALS[0], after(epoch, 50.0))
    halving.reported(TRIALS[0], Report(epoch=1, epochs=16, accuracy=50.0))
    halving.reported(TRIALS[0], None)
    halving.reported("another", after(1, 50.0))
    assert decisions(store) == {TRIALS[0]: [(1, False), (4, False)]}
    events = [entry for entry in store.cell(TRIALS[0]).log() if entry.get("event") == "rung"]
    assert [(entry["epoch"], entry["stops"]) for entry in events] == [(1, False), (4, False)]


def test_a_later_launch_goes_on_from_the_decisions_and_repeats_none(store, halving):
    for trial, accuracy in zip(TRIALS, (50.0, 60.0, 40.0), strict=False):
        halving.reported(trial, after(1, accuracy))
    before, said = decisions(store), []
    again = Halving(store, [search()], said.append)
    assert said == [MAY_DIFFER]
    for trial, accuracy in zip(TRIALS, (50.0, 60.0, 40.0), strict=False):
        again.reported(trial, after(1, accuracy))  # Killed before it saved its state.
    assert decisions(store) == before
    again.reported(TRIALS[3], after(1, 54.0))  # Below 55, the upper quartile of these three.
    assert decisions(store) == before | {TRIALS[3]: [(1, True)]}


def test_a_launch_that_finds_all_trials_trained_says_nothing_of_them(store, halving):
    for trial in TRIALS:
        halving.reported(trial, after(1, 50.0))
        store.cell(trial).save_best(b"weights", {})
        store.cell(trial).write_result({"accuracy": 50.0, "loss": 1.0, "stopped": False})
    Halving(store, [search()], pytest.fail)


def test_what_was_reported_but_not_decided_before_a_kill_is_decided_then(store):
    for trial, accuracy in zip(TRIALS, (60.0, 0.0), strict=False):
        store.cell(trial).append_log(after(1, accuracy).entry())
    Halving(store, [search()], lambda line: None)
    assert decisions(store) == {TRIALS[0]: [(1, False)], TRIALS[1]: [(1, True)]}


@pytest.mark.parametrize("lost", ["log.jsonl", "rungs.json", None])
def test_a_decision_that_the_log_or_the_record_has_alone_is_in_both_then(store, halving, lost):
    for epoch in (1, 4):
        halving.reported(TRIALS[0], after(epoch, 50.0))
    stored = store.cell(TRIALS[0])
    before, log = decisions(store), stored.log()
    if lost:
        (stored.path / lost).unlink()
    else:
        (stored.path / "rungs.json").write_text("{")
    Halving(store, [search()], lambda line: None)
    assert decisions(store) == before
    assert stored.log() == log


def test_without_halving_all_go_on(store):
    none = Halving(store, [search("none")], lambda line: None)
    for trial, accuracy in zip(TRIALS, (60.0, 40.0), strict=False):
        none.reported(trial, after(1, accuracy))
    assert decisions(store) == {}
