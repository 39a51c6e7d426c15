"""What follows when the training of a cell ends, and when an attempt at it fails."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.console import command_line
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState, StoredCell
from orchestrator.training.release import ReleaseOrder
from orchestrator.training.shortages import Shortages, advice, last_line
from orchestrator.watching.launch_context import LaunchContext
from orchestrator.watching.progress import Progress
from trainables.cell.cell import is_trial
from trainables.cell.not_finite import attempt_in_words, failure_in_words
from trainables.cell.report import Ending, TrialReport
from trainables.trial.config import TrialConfig

RETRIES = 2
"""How often a cell that crashes is tried again, from its last state, before it has failed."""
TEACHER_FAILED, TRIAL_FAILED = GIVEN_UP = ("teacher failed", "trial failed")
"""Events in the log of a cell that is given up without an attempt of its own."""


@dataclass(frozen=True)
class Endings:
    """Handles the ends of all trials of a launch.

    A trial reports an `Ending`, or Tune finds that it crashed. In between, an attempt may fail that
    is followed by another one.
    """

    store: Store
    context: LaunchContext
    order: ReleaseOrder
    shortages: Shortages
    on_trained: Callable[[str], None]
    """Called with the id of every cell that is trained."""

    @property
    def progress(self) -> Progress:
        """The launch's."""
        return self.context.progress

    def ended(self, config: TrialConfig, report: TrialReport) -> None:
        """Do what follows the last report of a trial.

        A trial that Tune stopped before it reported anything has no ending. Its cell waits for the
        next launch, as do the cells that wait for it.
        """
        cell_id = config.cell_id
        self.order.stopped(cell_id)
        match report.ending:
            case Ending.FINISHED:
                for follower in self.order.finished(cell_id):
                    self.progress.set_state(follower, CellState.PENDING)
                self.on_trained(cell_id)
            case Ending.INTERRUPTED:
                self.progress.set_state(cell_id, CellState.INTERRUPTED)
            case Ending.STORAGE_FULL | Ending.OTHER_CODE:
                self.progress.note(f"{cell_id}: {report.error}")
                self.progress.set_state(cell_id, CellState.INTERRUPTED)
                self.context.interrupts.stop()
            case Ending.OUT_OF_MEMORY:
                self._continue_with_more(config, report.error)
            case Ending.NOT_FINITE:
                self._fail(cell_id, failure_in_words(self.store.cell(cell_id).attempts()))
            case Ending.CRASHED:
                times, error = report.attempt_ended, report.error
                event = {"event": "failed", "attempt": times, "error": error}
                self.store.cell(cell_id).append_log(event)
                self._fail(cell_id, f"training failed {times} times; the last time:\n{error}")

    def attempt_not_finite(self, cell_id: str) -> None:
        """Show that an attempt was not finite; another one with a fallback recipe follows."""
        stored = self.store.cell(cell_id)
        changes = stored.gentler() or "nothing changed"
        self.progress.use_fallback(cell_id, changes)
        self._retry(
            cell_id,
            f"{attempt_in_words(stored.attempts()[-1])}; "
            f"continuing from its last good state with {changes}",
        )

    def attempt_crashed(self, cell_id: str, attempt: int, error: str) -> None:
        """Record an attempt that crashed and is followed by another one."""
        event = {"event": "attempt failed", "attempt": attempt, "error": error}
        self.store.cell(cell_id).append_log(event)
        self.progress.set_state(cell_id, CellState.INTERRUPTED)
        cause = last_line(error)
        self._retry(cell_id, f"attempt {attempt} failed, continuing from its last state ({cause})")

    def node_lost(self, cell_id: str, nodes_lost: int, error: str) -> None:
        """Record that a cell lost its node, which `CellTrial` does not count as an attempt."""
        event = {"event": "node lost", "nodes_lost": nodes_lost, "error": error}
        self.store.cell(cell_id).append_log(event)
        self.progress.set_state(cell_id, CellState.INTERRUPTED)
        self._retry(
            cell_id,
            "its node is lost or out of reach, continuing elsewhere from its last state",
        )

    def _continue_with_more(self, config: TrialConfig, error: str) -> None:
        larger = self.shortages.after(config, error)
        if larger is None:
            self._fail(config.cell_id, f"{error}\n{advice(config)}")
        else:
            self.progress.set_state(config.cell_id, CellState.PENDING)
            self.order.again(larger)

    def _retry(self, cell_id: str, reason: str) -> None:
        self.progress.retry(cell_id, reason)
        self.progress.note(f"{cell_id}: {reason}")

    def _fail(self, cell_id: str, error: str) -> None:
        """Declare a cell failed, and with it all cells that wait for it."""
        stored = self.store.cell(cell_id)
        fail(stored, self.progress, error)
        self.progress.note(f"{cell_id}: failed ({stored.reason()[:200]}); see {stored.error_file}")
        for follower, failed in self.order.failed(cell_id):
            self._give_up(follower, failed)

    def _give_up(self, cell_id: str, failed_id: str) -> None:
        """Declare a cell failed because its teacher or a trial has, at no cost of an attempt."""
        stored, failed = self.store.cell(cell_id), self.store.cell(failed_id)
        decides = is_trial(failed_id) and stored.cell().prerequisite != failed_id
        kind, event = ("trial", TRIAL_FAILED) if decides else ("teacher", TEACHER_FAILED)
        stored.append_log({"event": event, kind: failed_id})
        fail(
            stored,
            self.progress,
            f"not trained because its {kind} {failed_id} failed (see {failed.error_file}); "
            f"fix that and run: {command_line('--retry-failed')}",
        )


def fail(stored: StoredCell, progress: Progress, error: str) -> None:
    """Write why a cell failed and show it."""
    stored.write_error(error)
    progress.fail(stored.id, stored.reason(), str(stored.error_file))
