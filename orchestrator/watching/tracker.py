"""What all trackers have in common: what they follow, and how they read a cell's log."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from trainables.cell.report import LogEntry, Report

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
"""The fields of a report that trackers show; `docs/tables.md` explains each."""


ReportMetrics = dict[str, float | dict[str, float] | None]


class Tracker(Protocol):
    """Follows cells while a study runs. It never raises and never blocks for long."""

    def reported(self, cell_id: str, report: Report) -> None:
        """Take a report of training."""

    def changed(self, cell_id: str, state: str) -> None:
        """Take the new state of a cell."""


class LoggedReport(NamedTuple):
    """A report as a cell's log has it."""

    time: float
    """Seconds since the epoch."""
    report: Report


def metrics_of(report: Report) -> ReportMetrics | None:
    """Return the metrics of a report, None if nothing was trained or evaluated.

    The accuracies are None unless the report comes from an evaluation.
    """
    if report.loss is None and not report.epoch_ended:
        return None
    metrics: ReportMetrics = {name: getattr(report, name) for name in METRICS}
    if not report.epoch_ended:
        metrics |= {"accuracy": None, "best_accuracy": None}
    return metrics


def curve(log: Iterable[LogEntry]) -> list[LoggedReport]:
    """Return the reports of a cell's log that still count, their steps ascending.

    If training went back to an earlier state, its later reports replace those of the same steps
    and all that followed them.
    """
    reports: list[LoggedReport] = []
    for entry in log:
        report = Report.of_entry(entry)
        if report is None or metrics_of(report) is None:
            continue
        while reports and reports[-1].report.step >= report.step:
            reports.pop()
        reports.append(LoggedReport(entry["time"], report))
    return reports
