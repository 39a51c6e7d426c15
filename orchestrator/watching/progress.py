"""The state of a launch, and who is shown it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from rich.console import Console

from orchestrator.console import line
from orchestrator.store.stored_cell import CellState
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
from orchestrator.watching.time_left import MeasuredTraining, RemainingTime, time_left
from orchestrator.watching.tracker import Tracker
from trainables.cell.report import Report, TrialReport

PUBLISHING_SHARE = 0.005
"""Largest share of the driver's time that a publisher may take, however slow it is."""
REASON_CHARACTERS = 300


@dataclass
class StatusPublisher:
    """Publishes the status now and then."""

    what: str
    """What is published, in words."""
    publish: Callable[[Status], None]
    seconds: float
    """Seconds from one time to the next; more if publishing takes long."""
    due: float = 0.0
    """The next time, by the monotonic clock."""
    failed: bool = False


@dataclass
class _Cell:
    """The state of one cell."""

    state: str
    work: float
    """Expected work of training it, in any unit that all cells share; 0 if it is not trained."""
    cpus: float = 1.0
    gpus: float = 0.0
    waits_for: str | None = None
    report: Report | None = None
    """The last one while it runs."""
    first_step: int = 0
    """The optimiser step at which its attempt began."""
    node: str | None = None
    """Host of the process that trains it."""
    began: float | None = None
    """When it started to run, by the monotonic clock; None while it does not run."""
    spent: float = 0.0
    """Seconds that it ran in this launch before."""
    share: float = 0.0
    """Share of its training that is done."""
    share_before: float | None = None
    """Share that was done before this launch, None until its first report."""

    def seconds(self, now: float) -> float:
        return self.spent + (now - self.began if self.began is not None else 0.0)

    def work_done(self) -> float:
        """Return the work done in this launch; lost work that is repeated counts once."""
        return self.work * (self.share - (self.share_before or 0.0))


class Progress:
    """Collects what happens to the cells of a launch; shows it on the console and publishes it.

    Args:
        console: Where to show it.
        study: Name of the study.
        states: State of every cell at the start, by id.
        work: Expected work of training each untrained cell, in any unit, by id.
        driver: Name of this process.
        quiet: Print only notes.
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
        self._fallbacks: dict[str, CellReason] = {}
        self._launch = LaunchFacts(began=time.time(), seconds=0.0)
        self._started = time.monotonic()
        self._publishers: list[StatusPublisher] = []
        self._trackers: list[Tracker] = []
        self._comparing: tuple[int, int] | None = None
        self._drawing: tuple[str, int, int] | None = None
        self.cluster: Callable[[], ClusterFacts | None] = lambda: None
        """Returns what the cluster has at the moment."""

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the live view and leave the terminal as it was."""
        self._screen.stop()

    def follow(self, tracker: Tracker) -> None:
        """Pass all states and reports to a tracker from now on."""
        self._trackers.append(tracker)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        line(self._console, text)

    def expect(self, work: Mapping[str, float]) -> None:
        """Replace the expected work of cells, before any of them trains."""
        for cell_id, expected in work.items():
            self._cells[cell_id].work = expected

    def plan(self, cell_id: str, resources: Mapping[str, float]) -> None:
        """Record that a cell will be trained, and what its workers together will reserve.

        Args:
            cell_id: The cell's id.
            resources: As Ray names them: `{"CPU": ..., "GPU": ...}`.
        """
        cell = self._cells[cell_id]
        cell.cpus, cell.gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        if cell.state == CellState.FAILED:  # It failed in an earlier launch.
            self.set_state(cell_id, CellState.PENDING)

    def start(self, cell_id: str, resources: Mapping[str, float]) -> None:
        """Record that a cell starts or continues, and what its workers together reserve."""
        self.plan(cell_id, resources)
        self.set_state(cell_id, Activity.RUNNING)
        self._cells[cell_id].began = time.monotonic()

    def set_state(self, cell_id: str, state: str) -> None:
        """Record the new state of a cell."""
        cell = self._cells[cell_id]
        if cell.state == Activity.RUNNING and state in (Activity.EVALUATING, CellState.TRAINED):
            self._count(trained=1)
        cell.spent, cell.began = cell.seconds(time.monotonic()), None
        cell.state, cell.waits_for, cell.report = str(state), None, None
        self._failed.pop(cell_id, None)
        for tracker in self._trackers:
            tracker.changed(cell_id, state)

    def wait(self, cell_id: str, prerequisite: str) -> None:
        """Record that a cell waits for another one to be trained."""
        self.set_state(cell_id, Activity.WAITING)
        self._cells[cell_id].waits_for = prerequisite

    def fail(self, cell_id: str, reason: str, see: str) -> None:
        """Record that a cell has failed, why, and which file says more."""
        self.set_state(cell_id, CellState.FAILED)
        self._failed[cell_id] = CellReason(cell=cell_id, reason=_cut(reason), see=see)

    def retry(self, cell_id: str, reason: str) -> None:
        """Record that an attempt at training a cell failed and another one follows."""
        self._count(retries=1)
        self._retried[cell_id] = CellReason(cell=cell_id, reason=_cut(reason))

    def use_fallback(self, cell_id: str, changes: str) -> None:
        """Record that a cell trains with a fallback recipe, and what that changes."""
        self._fallbacks[cell_id] = CellReason(cell=cell_id, reason=changes)

    def report(self, cell_id: str, trial: TrialReport, node: str | None = None) -> None:
        """Record what a running cell reports, if it has trained.

        Args:
            cell_id: The cell's id.
            trial: What its trial reports.
            node: Host of the process that trains it.
        """
        report, first_step = trial.training, trial.first_step
        if report is None:
            return
        cell, total = self._cells[cell_id], max(report.total_steps, 1)
        if cell.share_before is None:
            cell.share = cell.share_before = first_step / total
        same_attempt = cell.report and cell.first_step == first_step
        before = cell.report.step if cell.report and same_attempt else first_step
        cell.share = report.step / total if report.total_steps else 1.0
        cell.report, cell.first_step, cell.node = report, first_step, node
        if report.preparing:  # This is not part of the training time.
            cell.began = time.monotonic()
        self._count(
            epochs=max(0, report.step - before) / total * report.epochs,
            checkpoint_bytes=trial.checkpoint_bytes,
            checkpoint_seconds=trial.checkpoint_seconds,
        )
        for tracker in self._trackers:
            tracker.reported(cell_id, report)

    def has_work(self) -> bool:
        """Return whether a cell trains or is evaluated."""
        working = (Activity.RUNNING, Activity.EVALUATING)
        return any(cell.state in working for cell in self._cells.values())

    def compare(self, done: int, of: int) -> None:
        """Record how many steps of comparing are done, of how many."""
        self._comparing = (done, of) if done < of else None
        self.tick()

    def draw(self, what: str, done: int, of: int) -> None:
        """Record how far the report is: what is being done, how many parts are, of how many."""
        self._drawing = (what, done, of) if done < of else None
        self.tick()

    def tick(self) -> None:
        """Show and publish the status where that is due."""
        if self._screen.due:
            self._screen.show(self.status())
        now = time.monotonic()
        self._publish([each for each in self._publishers if now >= each.due])

    def status(self) -> Status:
        """Return the status."""
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
            gentler=tuple(self._fallbacks.values()),
        )

    @contextmanager
    def publishing(self, *publishers: StatusPublisher) -> Iterator[None]:
        """Publish the status for the duration of the context, and once more when it ends.

        If nothing is published within it, nothing is when it ends.
        """
        self._publishers += publishers
        try:
            yield
        finally:
            self._publish([each for each in publishers if each.due])
            self._publishers = [each for each in self._publishers if each not in publishers]

    def _publish(self, publishers: Sequence[StatusPublisher]) -> None:
        if not publishers:
            return
        status = self.status()
        for each in publishers:
            began = time.monotonic()
            try:
                each.publish(status)
            except Exception as error:  # Watching a study must not harm it.
                if not each.failed:
                    self.note(f"cannot publish {each.what}: {type(error).__name__}: {error}")
                each.failed = True
            took = time.monotonic() - began
            each.due = began + max(each.seconds, took / PUBLISHING_SHARE)

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
                MeasuredTraining(cell.work_done(), cell.seconds(now) * share(cell))
                for cell in cells
                if cell.work_done() > 0
            ],
            [
                RemainingTime(left_of(c), share(c), left_of(self._cells.get(c.waits_for or "")))
                for c in untrained
            ],
            sum(share(cell) for cell in untrained if cell.state == Activity.RUNNING),
        )


def _running(cell_id: str, cell: _Cell) -> RunningCell:
    report = cell.report
    if report is None:
        return RunningCell(cell=cell_id, cpus=cell.cpus, gpus=cell.gpus)
    return RunningCell(
        cell=cell_id,
        node=cell.node,
        cpus=cell.cpus,
        gpus=cell.gpus,
        epoch=cell.share * report.epochs,
        epochs=report.epochs,
        loss=report.loss,
        metric=report.metric,
        accuracy=report.accuracy,
        images_per_second=report.images_per_second,
        data_wait=report.data_wait,
        preparing=report.preparing,
    )


def _cut(reason: str) -> str:
    return " ".join(reason.split())[:REASON_CHARACTERS]
