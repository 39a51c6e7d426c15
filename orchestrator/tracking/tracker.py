"""What all trackers have in common: what they are told, and how they read a cell's log."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

METRICS = (
    "epoch",
    "loss",
    "loss_terms",
    "lr",
    "accuracy",
    "best_accuracy",
    "images_per_second",
    "data_wait",
)
"""What trackers show of a report of training; `docs/tables.md` explains each."""


class Tracker(Protocol):
    """Follows cells while a study runs. It never raises and never waits for long."""

    def reported(self, cell_id: str, report: Mapping[str, Any]) -> None:
        """Take in a report of training."""

    def changed(self, cell_id: str, state: str) -> None:
        """Take in that a cell is in another state now."""


def metrics_of(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the metrics of a report, None where nothing was trained or evaluated.

    The accuracy is that of an evaluation which this report tells of, else None.
    """
    if report["loss"] is None and not report["epoch_ended"]:
        return None
    metrics = {name: report[name] for name in METRICS}
    if not report["epoch_ended"]:
        metrics |= {"accuracy": None, "best_accuracy": None}
    return metrics


def curve(log: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the reports of a cell's log that still count, their steps ascending.

    Where training went back to an earlier state, what it then reports replaces what had been
    reported from that step on.
    """
    reports: list[Mapping[str, Any]] = []
    for entry in log:
        if "step" not in entry or "loss" not in entry or metrics_of(entry) is None:
            continue
        while reports and reports[-1]["step"] >= entry["step"]:
            reports.pop()
        reports.append(entry)
    return reports
