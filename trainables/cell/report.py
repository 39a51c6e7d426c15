"""What the training of a cell reports while it runs, and how it can end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

TuneDict = dict[str, Any]
"""A configuration, a result or a checkpoint, as Tune passes it."""


class Ending(StrEnum):
    """How a trial of a cell ended. `orchestrator.training.endings` does what follows."""

    FINISHED = "finished"
    """All steps are done, and `result.json` is written."""
    INTERRUPTED = "interrupted"
    """The study is stopping; the state is saved."""
    OTHER_CODE = "other code"
    """The trial's process found other code of this project than the driver's."""
    STORAGE_FULL = "storage full"
    """A write failed because the disk is full; the last saved state is whole."""
    OUT_OF_MEMORY = "out of memory"
    """The device or the process had too little memory for a step."""
    NOT_FINITE = "not finite"
    """The last fallback recipe, too, reached a number that is not finite."""
    CRASHED = "crashed"
    """An error was raised or a process died, once more than the cell may be retried."""


LogEntry = Mapping[str, Any]
"""A line of `log.jsonl`: a report or an event, with its time."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One line of a cell's `log.jsonl`: what training did since the last one, and where it stands.

    `docs/tables.md` explains each field. None where there is no value.
    """

    loss: float | None = None
    """Mean over the steps since the last report."""
    loss_terms: dict[str, float] | None = None
    """The terms that add up to it."""
    images_per_second: float | None = None
    data_wait: float | None = None
    """Share of the training time in which the device waited for images, in [0, 1]."""
    notes: tuple[str, ...] = ()
    """What does not run as the recipe says, a line each."""
    preparing: str | None = None
    """What is done to make the images readable; while it is set, nothing is trained."""
    epoch: int = 0
    """Finished epochs."""
    epochs: int = 0
    step: int = 0
    """Finished optimiser steps."""
    total_steps: int = 0
    lr: float | None = None
    """Highest learning rate of the last step."""
    metric: str | None = None
    accuracy: float | None = None
    """Of the last evaluation, in percent."""
    best_accuracy: float | None = None
    """Percent."""
    moved: dict[str, float] | None = None
    """At the end of an epoch, how far each part of the model is from where it started, relative to
    its norm then."""
    epoch_ended: bool = False
    best_improved: bool = False
    finished: bool = False

    def entry(self) -> dict[str, object]:
        """Return the fields as the log holds them, in their order."""
        return asdict(self)

    @classmethod
    def of_entry(cls, entry: LogEntry) -> Self | None:
        """Return the report in a line of the log, None where the line records something else.

        Logs of earlier versions have fewer fields.
        """
        if not {"step", "loss"} <= entry.keys():
            return None
        return cls(**{name: entry[name] for name in _FIELDS & entry.keys()})


_FIELDS = {field.name for field in fields(Report)}


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """What a trial reports to the driver."""

    training: Report | None = None
    """None where nothing was trained since the last report."""
    first_step: int = 0
    """The optimiser step at which the present attempt began."""
    checkpoint_bytes: int = 0
    """Bytes written to the store since the last report."""
    checkpoint_seconds: float = 0.0
    """Seconds that writing them took."""
    checkpoint_blocked: float = 0.0
    """Seconds in which training waited for it."""
    storage: tuple[str, ...] = ()
    """What the storage made wait, a line each."""
    attempt_ended: int | None = None
    """The attempt, counted from 1, that this report ends; the trial may begin another."""
    ending: Ending | None = None
    """How the trial ended; None while it continues."""
    error: str = ""
    """Why it ended, where that is a failure."""
    process_spent: bool = False
    """The process must not train another cell."""

    @property
    def done(self) -> bool:
        """Whether this is the trial's last report."""
        return self.ending is not None

    def to_dict(self) -> TuneDict:
        """Return it as Tune wants a result."""
        return {"report": self, "done": self.done}

    @classmethod
    def from_dict(cls, result: TuneDict) -> "TrialReport":
        """Return the report in a result of Tune's; an empty one where a trial never reported."""
        report: TrialReport = result.get("report") or cls()
        return report
