"""What Tune tells of trials, turned into states and records of cells."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from orchestrator.storage.store import CellState, Store
from orchestrator.training.attempts import attempt_in_words, lost_in_words
from orchestrator.watching.progress import Progress


class TrialObserver(tune.Callback):
    """Turns what Tune tells of trials into states of cells."""

    def __init__(
        self,
        store: Store,
        progress: Progress,
        on_trained: Callable[[str], None],
        on_tick: Callable[[], None],
        on_storage_full: Callable[[], None],
    ) -> None:
        self._store = store
        self._progress = progress
        self._on_trained = on_trained
        self._on_tick = on_tick
        self._on_storage_full = on_storage_full

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Show the cell as running, and no longer as failed, unless it is to end at once."""
        _name_steps(trial)
        if self._store.stop_file.exists():
            return
        self._store.cell(cell_of(trial)).clear_error()
        resources = trial.placement_group_factory.required_resources
        self._progress.start(cell_of(trial), resources)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Show what the cell has reached; one that was stopped before it began has nothing."""
        for words in (*result.get("notes", ()), *result.get("storage", ())):
            self._progress.note(f"{cell_of(trial)}: {words}")
        if "step" in result:
            self._progress.report(cell_of(trial), result)
        if "attempt_ended" in result and not result["done"]:
            stored = self._store.cell(cell_of(trial))
            changes = stored.gentler() or "nothing changed"
            reason = (
                f"{attempt_in_words(stored.attempts()[-1])}; "
                f"going on from its last good state with {changes}"
            )
            self._progress.train_gentler(cell_of(trial), changes)
            self._progress.retry(cell_of(trial), reason)
            self._progress.note(f"{cell_of(trial)}: {reason}")

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Hand a trained cell on; a cell that was interrupted has only been saved."""
        if trial.last_result.get("process_spent"):
            _end_process(trial)
        if trial.last_result.get("interrupted"):
            self._progress.set_state(cell_of(trial), CellState.INTERRUPTED)
        if trial.last_result.get("storage_full"):
            self._on_storage_full()
        if trial.last_result.get("finished"):
            self._on_trained(cell_of(trial))
        if "attempt_ended" in trial.last_result:
            self._fail(
                cell_of(trial),
                lost_in_words(self._store.cell(cell_of(trial)).attempts()),
            )

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Keep a record of every attempt that failed and is followed by another."""
        reason = reason_of(trial)
        if trial.node_was_lost:
            event = {"event": "node lost", "nodes_lost": trial.nodes_lost, "error": reason}
            words = "its node is lost or out of reach, going on elsewhere from its last state"
        else:
            event = {"event": "attempt failed", "attempt": trial.num_failures, "error": reason}
            words = (
                f"attempt {trial.num_failures} failed, "
                f"going on from its last state ({last_line(reason)})"
            )
        self._store.cell(cell_of(trial)).append_log(event)
        self._progress.set_state(cell_of(trial), CellState.INTERRUPTED)
        self._progress.retry(cell_of(trial), words)
        self._progress.note(f"{cell_of(trial)}: {words}")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Declare the cell failed."""
        stored = self._store.cell(cell_of(trial))
        reason = reason_of(trial)
        stored.append_log({"event": "failed", "attempt": trial.num_failures, "error": reason})
        text = f"training failed {trial.num_failures} times; the last time:\n{reason}"
        self._fail(cell_of(trial), text)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Let the other work go on."""
        self._on_tick()

    def _fail(self, cell_id: str, text: str) -> None:
        stored = self._store.cell(cell_id)
        stored.write_error(text)
        self._progress.fail(cell_id, stored.reason(), str(stored.error_file))
        self._progress.note(f"{cell_id}: failed ({stored.reason()[:200]}); see {stored.error_file}")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks for a restore, which a launch never does.


def cell_of(trial: Trial) -> str:
    """Return the id of a trial's cell, which may have had trials with other ids before it."""
    cell_id: str = trial.config["cell_id"]
    return cell_id


def _name_steps(trial: Trial) -> None:
    """Name the trial's training steps after its cell on Ray's dashboard.

    Ray names them after what the actor called itself when it began, which may be another cell.
    """
    actor = trial.temporary_state.ray_actor
    vars(actor).pop("train", None)  # The name that an earlier cell has given.
    actor.train = actor.train.options(name=f"{cell_of(trial)}.train")


def _end_process(trial: Trial) -> None:
    """Have Tune end the trial's process with it.

    Tune hands a process on to a trial that asks for the same: for this, nobody does.
    """
    request = trial.placement_group_factory
    trial.placement_group_factory = tune.PlacementGroupFactory(request.bundles, name="spent")


def reason_of(trial: Trial) -> str:
    """Return how the last attempt failed; `trial.get_error` finds it only after the trial's end."""
    failures = Path(trial.error_file).read_text().split("Failure # ")
    return failures[-1].partition("\n")[2].strip()


def last_line(text: str) -> str:
    """Return the last line of an error, cut where it is very long."""
    return text.strip().splitlines()[-1][:200]
