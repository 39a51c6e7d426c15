"""What a run tells while it works: a live view on a terminal, one line a minute elsewhere."""

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.store import CellState

QUIET_SECONDS = 60.0
RUNNING = "running"
EVALUATING = "evaluating"
WAITING = "waiting"
STYLES = {"done": "green", "failed": "bold red", RUNNING: "cyan", EVALUATING: "blue"}
ROWS_SHOWN = 12


class Progress:
    """States of a study's cells, drawn as they change.

    Args:
        console: Where to draw.
        study: Name of the study.
        states: State of every cell at the start, by id.
        work: Expected training work of every cell still to be trained, in any one unit, by id.
        quiet: Say nothing but notes.
    """

    def __init__(
        self,
        console: Console,
        study: str,
        states: Mapping[str, CellState],
        work: Mapping[str, float],
        *,
        quiet: bool = False,
    ) -> None:
        self._console = console
        self._study = study
        self._states: dict[str, str] = {cell: str(state) for cell, state in states.items()}
        self._work = dict(work)
        self._reports: dict[str, dict[str, Any]] = {}
        self._waited_for: dict[str, str] = {}
        self._started = time.monotonic()
        self._told = self._started
        self._worked = 0.0
        self._quiet = quiet
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the live view and leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def set_state(self, cell: str, state: str) -> None:
        """Record that a cell is now in another state."""
        self._states[cell] = state
        self._waited_for.pop(cell, None)
        if state != RUNNING:
            self._reports.pop(cell, None)

    def wait(self, cell: str, prerequisite: str) -> None:
        """Record that a cell waits until another one is trained."""
        self._states[cell] = WAITING
        self._waited_for[cell] = prerequisite

    def report(self, cell: str, report: dict[str, Any]) -> None:
        """Record what a running cell reports."""
        before = self._reports.get(cell, {}).get("step", report["first_step"])
        share = (report["step"] - before) / max(report["total_steps"], 1)
        self._worked += self._work.get(cell, 0.0) * share
        self._reports[cell] = report

    def tick(self) -> None:
        """Draw; off a terminal only when a minute has passed."""
        if self._live is not None:
            lines = map(Text, (*self._queues(), *self._preparations()))
            self._live.update(Group(self._headline(), self._table(), *lines), refresh=True)
        elif not self._quiet and time.monotonic() - self._told >= QUIET_SECONDS:
            self._told = time.monotonic()
            for line in (self._headline().plain, *self._preparations()):
                self.note(line)

    def summary(self) -> str:
        """Return the cells counted by state, such as `5 done, 2 running, 16 pending`."""
        counts = Counter(self._states.values())
        order = [*STYLES, WAITING, *(str(state) for state in CellState)]
        return ", ".join(f"{counts[s]} {s}" for s in dict.fromkeys(order) if counts[s])

    def _headline(self) -> Text:
        speed = sum(report["images_per_second"] or 0.0 for report in self._reports.values())
        parts = [f"{self._study}: {len(self._states)} cells: {self.summary()}"]
        if speed:
            parts.append(f"{speed:,.0f} images/s")
        parts.append(f"{_duration(time.monotonic() - self._started)} so far")
        if (left := self._seconds_left()) is not None:
            parts.append(f"about {_duration(left)} left")
        return Text(" · ".join(parts))

    def _preparations(self) -> list[str]:
        """Return what running cells do before they train, each once."""
        found = (report["preparing"] for report in self._reports.values())
        return [words for words in dict.fromkeys(found) if words]

    def _seconds_left(self) -> float | None:
        unfinished = {c: w for c, w in self._work.items() if self._states[c] not in _ENDED}
        if not self._worked or not unfinished:
            return None
        in_progress = sum(
            unfinished.get(cell, 0.0) * _share_done(report)
            for cell, report in self._reports.items()
        )
        left = sum(unfinished.values()) - in_progress
        return left / self._worked * (time.monotonic() - self._started)

    def _queues(self) -> list[str]:
        """Return a line for each cell that others wait for."""
        queues = Counter(self._waited_for.values()).most_common(ROWS_SHOWN)
        return [f"{count} waiting for {cell}" for cell, count in queues]

    def _table(self) -> Table:
        running = [cell for cell, state in self._states.items() if state == RUNNING]
        table = Table(box=None, pad_edge=False, show_header=bool(running))
        for column in ("cell", "epoch", "loss", "metric", "images/s", "data wait"):
            table.add_column(column, justify="left" if column == "cell" else "right")
        for cell in running[:ROWS_SHOWN]:
            report = self._reports.get(cell)
            table.add_row(cell, *(_facts(report) if report else ("starting",)))
        return table


_ENDED = {str(CellState.DONE), str(CellState.TRAINED), str(CellState.FAILED), EVALUATING}


def _facts(report: Mapping[str, Any]) -> tuple[str, ...]:
    loss, accuracy = report["loss"], report["accuracy"]
    return (
        f"{_share_done(report) * report['epochs']:.1f}/{report['epochs']}",
        f"{loss:.3f}" if loss is not None else "",
        f"{report['metric']} {accuracy:.1f} %" if accuracy is not None else "",
        f"{report['images_per_second'] or 0.0:,.0f}",
        f"{report['data_wait'] or 0.0:.0%}",
    )


def _share_done(report: Mapping[str, Any]) -> float:
    total: int = report["total_steps"]
    return report["step"] / total if total else 1.0


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
