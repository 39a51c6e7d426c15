"""What the driver knows of a launch while it works, and whom it tells."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console

from orchestrator.storage.store import CellState
from orchestrator.tracking.tracker import Tracker
from orchestrator.watching.status import (
    UNTRAINED,
    Activity,
    CellReason,
    ClusterFacts,
    LaunchFacts,
    RunningCell,
    Status,
    TimeLeft,
    count_states,
)
from orchestrator.watching.status_view import Screen
from orchestrator.watching.time_left import Left, Measured, time_left

SINK_SHARE = 0.005
"""A sink takes no more of the driver's time, however slow it is."""
REASON_CHARACTERS = 300


@dataclass
class Sink:
    """Somebody who is told now and then how things stand."""

    what: str
    """What is published, in words."""
    tell: Callable[[Status], None]
    seconds: float
    """How often; less often where it takes long."""
    due: float = 0.0
    """When the next time is, by the monotonic clock."""
    failed: bool = False


@dataclass
class _Cell:
    """What is known of one cell."""

    state: str
    work: float
    """Expected work of training it, in the unit of all cells; 0 where it is not to be trained."""
    cpus: float = 1.0
    gpus: float = 0.0
    waits_for: str | None = None
    report: Mapping[str, Any] | None = None
    """The last one while it runs."""
    began: float | None = None
    """When it began to run, while it does, by the monotonic clock."""
    spent: float = 0.0
    """Seconds it ran in this launch before that."""
    share: float = 0.0
    """Share of its training that is done, as far as this launch knows."""
    share_before: float | None = None
    """The same before this launch, None until its first report."""

    def seconds(self, now: float) -> float:
        return self.spent + (now - self.began if self.began is not None else 0.0)

    def work_done(self) -> float:
        """Return the work done in this launch; less where some was lost and is done again."""
        return self.work * (self.share - (self.share_before or 0.0))


class Progress:
    """Gathers what happens to the cells of a launch, and tells it on the console and to sinks.

    Args:
        console: Where to draw.
        study: Name of the study.
        states: State of every cell at the start, by id.
        work: Expected training work of every cell still to be trained, in any one unit, by id.
        driver: Who this process is.
        quiet: Say nothing but notes.
    """

    def __init__(
        self,
        console: Console,
        study: str,
        states: Mapping[str, CellState],
        work: Mapping[str, float],
        *,
        driver: str | None = None,
        quiet: bool = False,
    ) -> None:
        self._console = console
        self._screen = Screen(console, quiet=quiet)
        self._study = study
        self._driver = driver
        self._cells = {
            cell: _Cell(str(state), work.get(cell, 0.0)) for cell, state in states.items()
        }
        self._failed: dict[str, CellReason] = {}
        self._retried: dict[str, CellReason] = {}
        self._gentler: dict[str, CellReason] = {}
        self._launch = LaunchFacts(began=time.time(), seconds=0.0)
        self._started = time.monotonic()
        self._sinks: list[Sink] = []
        self._trackers: list[Tracker] = []
        self._comparing: tuple[int, int] | None = None
        self._drawing: tuple[str, int, int] | None = None
        self.cluster: Callable[[], ClusterFacts | None] = lambda: None
        """Tells what there is to run on at the moment."""

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the live view and leave the terminal as it was."""
        self._screen.stop()

    def follow(self, tracker: Tracker) -> None:
        """Let a tracker know of all states and reports from now on."""
        self._trackers.append(tracker)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def expect(self, work: Mapping[str, float]) -> None:
        """Take better figures of the training work of cells, before any of them trains."""
        for cell_id, expected in work.items():
            self._cells[cell_id].work = expected

    def plan(self, cell_id: str, resources: Mapping[str, float]) -> None:
        """Record that a cell is to be trained, and what its workers together are to reserve.

        Args:
            cell_id: The cell's id.
            resources: As Ray has it: `{"CPU": ..., "GPU": ...}`.
        """
        cell = self._cells[cell_id]
        cell.cpus, cell.gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        if cell.state == CellState.FAILED:  # In an earlier launch.
            self.set_state(cell_id, CellState.PENDING)

    def start(self, cell_id: str, resources: Mapping[str, float]) -> None:
        """Record that a cell begins to run, or goes on, and what its workers together reserve."""
        self.plan(cell_id, resources)
        self.set_state(cell_id, Activity.RUNNING)
        self._cells[cell_id].began = time.monotonic()

    def set_state(self, cell_id: str, state: str) -> None:
        """Record that a cell is now in another state."""
        cell = self._cells[cell_id]
        if cell.state == Activity.RUNNING and state in (Activity.EVALUATING, CellState.TRAINED):
            self._count(trained=1)
        cell.spent, cell.began = cell.seconds(time.monotonic()), None
        cell.state, cell.waits_for, cell.report = str(state), None, None
        self._failed.pop(cell_id, None)
        for tracker in self._trackers:
            tracker.changed(cell_id, state)

    def wait(self, cell_id: str, prerequisite: str) -> None:
        """Record that a cell waits until another one is trained."""
        self.set_state(cell_id, Activity.WAITING)
        self._cells[cell_id].waits_for = prerequisite

    def fail(self, cell_id: str, reason: str, see: str) -> None:
        """Record that a cell is given up, and why."""
        self.set_state(cell_id, CellState.FAILED)
        self._failed[cell_id] = CellReason(cell=cell_id, reason=_cut(reason), see=see)

    def retry(self, cell_id: str, reason: str) -> None:
        """Record that an attempt at training a cell failed and is followed by another."""
        self._count(retries=1)
        self._retried[cell_id] = CellReason(cell=cell_id, reason=_cut(reason))

    def train_gentler(self, cell_id: str, changes: str) -> None:
        """Record that a cell is trained more gently than asked for, and what was changed."""
        self._gentler[cell_id] = CellReason(cell=cell_id, reason=changes)

    def report(self, cell_id: str, report: Mapping[str, Any]) -> None:
        """Record what a running cell reports; see `Finetuning.run` and `CellTraining.step`."""
        cell = self._cells[cell_id]
        total = max(report["total_steps"], 1)
        if cell.share_before is None:
            cell.share = cell.share_before = report["first_step"] / total
        same_attempt = cell.report and cell.report["first_step"] == report["first_step"]
        before = cell.report["step"] if cell.report and same_attempt else report["first_step"]
        cell.share = report["step"] / total if report["total_steps"] else 1.0
        cell.report = report
        if report["preparing"]:  # Not what training costs.
            cell.began = time.monotonic()
        self._count(
            epochs=max(0, report["step"] - before) / total * report["epochs"],
            checkpoint_bytes=report.get("checkpoint_bytes", 0),
            checkpoint_seconds=report.get("checkpoint_seconds", 0.0),
        )
        for tracker in self._trackers:
            tracker.reported(cell_id, report)

    def compare(self, done: int, of: int) -> None:
        """Record how many steps of comparing are done already, of how many."""
        self._comparing = (done, of) if done < of else None
        self.tick()

    def draw(self, what: str, done: int, of: int) -> None:
        """Record how far the report is: what is done, how many parts of it, of how many."""
        self._drawing = (what, done, of) if done < of else None
        self.tick()

    def tick(self) -> None:
        """Draw and publish what is due."""
        if self._screen.due:
            self._screen.show(self.status())
        now = time.monotonic()
        self._publish([sink for sink in self._sinks if now >= sink.due])

    def status(self) -> Status:
        """Return how things stand."""
        cells = self._cells.items()
        seconds = time.monotonic() - self._started
        return Status(
            study=self._study,
            time=time.time(),
            driver=self._driver,
            states=count_states(cell.state for cell in self._cells.values()),
            running=tuple(_running(i, cell) for i, cell in cells if cell.state == Activity.RUNNING),
            waiting=dict(Counter(cell.waits_for for _, cell in cells if cell.waits_for)),
            cluster=self.cluster(),
            launch=self._launch.model_copy(update={"seconds": seconds}),
            left=self._time_left(),
            comparing=self._comparing,
            drawing=self._drawing,
            failed=tuple(self._failed.values()),
            retried=tuple(self._retried.values()),
            gentler=tuple(self._gentler.values()),
        )

    @contextmanager
    def telling(self, *sinks: Sink) -> Iterator[None]:
        """Tell sinks how things stand for the duration of the context, and as it ends.

        Where nothing has begun within it, there is nothing to tell.
        """
        self._sinks += sinks
        try:
            yield
        finally:
            self._publish([sink for sink in sinks if sink.due])
            self._sinks = [sink for sink in self._sinks if sink not in sinks]

    def _publish(self, sinks: Sequence[Sink]) -> None:
        if not sinks:
            return
        status = self.status()
        for sink in sinks:
            began = time.monotonic()
            try:
                sink.tell(status)
            except Exception as error:  # To watch a study must not harm it.
                if not sink.failed:
                    self.note(f"cannot publish {sink.what}: {type(error).__name__}: {error}")
                sink.failed = True
            took = time.monotonic() - began
            sink.due = began + max(sink.seconds, took / SINK_SHARE)

    def _count(self, **further: float) -> None:
        sums = {name: getattr(self._launch, name) + value for name, value in further.items()}
        self._launch = self._launch.model_copy(update=sums)

    def _time_left(self) -> TimeLeft | None:
        now = time.monotonic()
        cells = self._cells.values()
        untrained = [cell for cell in cells if cell.work and cell.state in UNTRAINED]
        on_gpus = all(cell.gpus for cell in untrained)
        share = (lambda cell: cell.gpus) if on_gpus else (lambda cell: cell.cpus)

        def left_of(cell: _Cell | None) -> float:
            return cell.work * (1 - cell.share) if cell else 0.0

        return time_left(
            [
                Measured(cell.work_done(), cell.seconds(now) * share(cell))
                for cell in cells
                if cell.work_done() > 0
            ],
            [
                Left(left_of(c), share(c), left_of(self._cells.get(c.waits_for or "")))
                for c in untrained
            ],
            sum(share(cell) for cell in untrained if cell.state == Activity.RUNNING),
        )


def _running(cell_id: str, cell: _Cell) -> RunningCell:
    facts: dict[str, Any] = {}
    if report := cell.report:
        same = ("epochs", "loss", "metric", "accuracy", "images_per_second", "data_wait")
        facts = {name: report[name] for name in (*same, "preparing")}
        facts |= {"epoch": cell.share * report["epochs"], "node": report.get("hostname")}
    return RunningCell(cell=cell_id, cpus=cell.cpus, gpus=cell.gpus, **facts)


def _cut(reason: str) -> str:
    return " ".join(reason.split())[:REASON_CHARACTERS]
