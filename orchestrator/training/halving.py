"""Stops trials early that are behind: Tune's ASHA, with the decisions of earlier launches.

A decision is recorded in the trial's folder, where the trial finds it before its next step.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from orchestrator.store.searches import Search
from orchestrator.store.store import Store
from trainables.cell.json_records import Rung
from trainables.cell.report import LogEntry, Report

REDUCTION = 4
"""The best quarter of the trials that came as far goes on."""
MAY_DIFFER = (
    "trials go on where an earlier launch left them; asynchronous halving depends on the order in "
    "which they arrive, so it may choose otherwise than an undisturbed launch"
)


class Halving:
    """Decides after some epochs whether trials go on.

    Args:
        store: The study's store, which holds the decisions so far.
        searches: The study's; those without successive halving are left alone.
        say: Called with a line where trials of an earlier launch are taken up.
    """

    def __init__(
        self, store: Store, searches: Sequence[Search], say: Callable[[str], None]
    ) -> None:
        self._store = store
        self._brackets: dict[str, Bracket] = {}
        """By the id of a trial."""
        taken_up = False
        for search in searches:
            for trials in _competing(search):
                bracket = Bracket(store, trials)
                bracket.take_up()
                taken_up = taken_up or bracket.is_under_way()
                self._brackets |= dict.fromkeys(trials, bracket)
        if taken_up:
            say(MAY_DIFFER)

    def reported(self, cell_id: str, report: Report | None) -> None:
        """Decide about a trial that has finished an epoch, unless that is decided already."""
        bracket = self._brackets.get(cell_id)
        if bracket and report and report.epoch_ended and report.accuracy is not None:
            bracket.decide(cell_id, report.epoch, report.accuracy, last=report.epochs)


class Bracket:
    """Trials that differ in nothing but the values they try.

    Args:
        store: The study's store.
        trials: Their ids.
    """

    def __init__(self, store: Store, trials: Sequence[str]) -> None:
        self._store = store
        self._trials = trials
        # It sees epochs of rungs alone, and what the last epoch is does not matter to these.
        self._asha = ASHAScheduler(
            "epoch", "accuracy", "max", max_t=REDUCTION**20, reduction_factor=REDUCTION
        )
        self._decided: set[tuple[str, int]] = set()

    def is_under_way(self) -> bool:
        """Return whether an earlier launch has begun the trials and not trained them all."""
        cells = [self._store.cell(trial) for trial in self._trials]
        return any(each.log() for each in cells) and not all(each.is_trained() for each in cells)

    def take_up(self) -> None:
        """Tell ASHA the decisions that are recorded, then decide what a kill has left undecided."""
        for trial in self._trials:
            self._asha.on_trial_add(None, _named(trial))
        for trial in self._trials:
            for rung in self._store.cell(trial).mended_rungs():
                self._stops(trial, rung["epoch"], rung["accuracy"])
        reported = [(e, t) for t in self._trials for e in _ends(self._store.cell(t).log())]
        for entry, trial in sorted(reported, key=lambda each: each[0]["time"]):
            self.decide(trial, entry["epoch"], entry["accuracy"], last=entry["epochs"])

    def decide(self, trial: str, epoch: int, accuracy: float, *, last: int) -> None:
        """Record whether a trial goes on after an epoch, if that is a rung, and only once."""
        if not _is_rung(epoch) or epoch >= last or (trial, epoch) in self._decided:
            return
        stops = self._stops(trial, epoch, accuracy)
        rung: Rung = {"epoch": epoch, "accuracy": accuracy, "stops": stops, "time": time.time()}
        self._store.cell(trial).add_rung(rung)

    def _stops(self, trial: str, epoch: int, accuracy: float) -> bool:
        self._decided.add((trial, epoch))
        result = {"epoch": epoch, "accuracy": accuracy}
        return self._asha.on_trial_result(None, _named(trial), result) == TrialScheduler.STOP


def _competing(search: Search) -> Iterator[tuple[str, ...]]:
    """Yield the trials that compete, of each cell that shares the choice; none where all go on."""
    if search.scheduler == "asha":
        yield from zip(*(each.trials for each in search.candidates), strict=True)


def _ends(log: Sequence[LogEntry]) -> list[LogEntry]:
    return [e for e in log if e.get("epoch_ended") and e.get("accuracy") is not None]


def _is_rung(epoch: int) -> bool:
    while epoch > 1 and epoch % REDUCTION == 0:
        epoch //= REDUCTION
    return epoch == 1


def _named(trial: str) -> SimpleNamespace:
    """Return what ASHA looks at of a trial of Tune's."""
    return SimpleNamespace(trial_id=trial)
