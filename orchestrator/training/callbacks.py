"""What Tune reports of trials, translated for `Endings` and the progress."""

from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from orchestrator.cluster.room import RoomWatch
from orchestrator.training.endings import Endings
from orchestrator.training.evaluations import Evaluations
from orchestrator.training.tune_internals import end_process, name_steps, reason_of
from trainables.cell.report import Ending, TrialReport, TuneDict
from trainables.trial.config import TrialConfig

HOSTNAME = "hostname"
"""Key of Tune's results."""


class TrialCallback(tune.Callback):
    """Translates Tune's events.

    Args:
        endings: Handles the ends of trials and attempts.
        evaluations: What the driver does beside the training.
    """

    def __init__(self, endings: Endings, evaluations: Evaluations) -> None:
        self._endings = endings
        self._store = endings.store
        self._progress = endings.progress
        self._evaluations = evaluations

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Show the cell as running, and no longer as failed, unless the study is stopping."""
        name_steps(trial, cell_of(trial))
        if self._store.stop_file.exists():
            return
        self._store.cell(cell_of(trial)).clear_error()
        resources = trial.placement_group_factory.required_resources
        self._progress.start(cell_of(trial), resources)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: TuneDict, **info: Any
    ) -> None:
        """Show how far the cell is; one that is stopped before it begins has nothing to show."""
        cell_id, report = cell_of(trial), TrialReport.from_dict(result)
        notes = report.training.notes if report.training else ()
        for note in (*notes, *report.storage):
            self._progress.note(f"{cell_id}: {note}")
        self._progress.report(cell_id, report, node=result.get(HOSTNAME))
        if report.attempt_ended is not None and not report.done:
            self._endings.attempt_not_finite(cell_id)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Handle the end of a trial that has reported it."""
        report = TrialReport.from_dict(trial.last_result)
        if report.process_spent:
            end_process(trial)
        self._endings.ended(TrialConfig.from_dict(trial.config), report)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Record a crash that is followed by another attempt."""
        if trial.node_was_lost:
            self._endings.node_lost(cell_of(trial), trial.nodes_lost, reason_of(trial))
        else:
            self._endings.attempt_crashed(cell_of(trial), trial.num_failures, reason_of(trial))

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Handle the end of a trial that has crashed too often."""
        report = TrialReport(
            ending=Ending.CRASHED, attempt_ended=trial.num_failures, error=reason_of(trial)
        )
        self._endings.ended(TrialConfig.from_dict(trial.config), report)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Let the driver do its other work."""
        self._evaluations.tick()

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune saves its callbacks for a restore, which a launch never does.


class RoomCallback(tune.Callback):
    """Reports that a shared cluster has no room, which Tune waits for without a word."""

    def __init__(self, room: RoomWatch) -> None:
        self._room = room

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look whether anything runs."""
        self._room.look()

    def __getstate__(self) -> dict[str, object]:
        return {}  # As above.


def cell_of(trial: Trial) -> str:
    """Return the id of a trial's cell; a cell can have several trials in a launch."""
    cell_id: str = trial.config["cell_id"]
    return cell_id
