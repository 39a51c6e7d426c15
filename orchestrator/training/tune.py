"""Tune's parts of a study: which trial is next, which process it gets, and how much memory."""

from collections.abc import Callable
from typing import Any, Protocol

from ray.tune.experiment import Experiment, Trial
from ray.tune.registry import get_trainable_cls
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import SearchAlgorithm

from orchestrator.training.callbacks import cell_of
from orchestrator.training.shortages import Shortages
from orchestrator.training.tune_internals import CellTrial, reason_of
from trainables.cell.report import Report, TrialReport, TuneDict
from trainables.trial.config import TrialConfig
from trainables.trial.trainable import resource_request

ANOTHER_TRIAL = "~"
"""Separates a cell's id from the number of its trial, from its second trial in a launch on."""


class TrialSource(Protocol):
    """Which cell is next: all that Tune has to be told."""

    def __len__(self) -> int:
        """Return how many trials have not begun."""

    def next(self) -> TrialConfig | None:
        """Return the configuration of the next trial, None while none may begin."""

    def retries(self, config: TrialConfig) -> int:
        """Return how often a trial may crash and be tried again."""

    def is_finished(self) -> bool:
        """Return whether no trial will follow."""

    def without_room(self) -> list[str]:
        """Return the ids of released cells for which there is no room yet."""


class CellSearch(SearchAlgorithm):
    """Makes each configuration of a source a trial, named after its cell.

    `TrialCallback` handles how trials end; a cell may get another one then.
    """

    def __init__(self, source: TrialSource) -> None:
        self._source = source
        self._trials: dict[str, int] = {}
        """How many trials each cell has had, by id."""
        self._spec: TuneDict = {}

    def add_configurations(self, experiments: Experiment | list[Experiment]) -> None:
        """Take what all trials have in common from the experiment."""
        experiment = experiments[0] if isinstance(experiments, list) else experiments
        self._spec = dict(experiment.spec)
        self._trainable = get_trainable_cls(self._spec["run"])

    @property
    def total_samples(self) -> int:
        """Trials that have not begun."""
        return len(self._source)

    def next_trial(self) -> Trial | None:
        """Return the next cell's trial, None while none may begin."""
        config = self._source.next()
        if config is None:
            return None
        cell_id = config.cell_id
        number = self._trials[cell_id] = self._trials.get(cell_id, 0) + 1
        trial_id = cell_id if number == 1 else f"{cell_id}{ANOTHER_TRIAL}{number}"
        retries = self._source.retries(config)
        return CellTrial(self._spec, self._trainable, config.to_dict(), trial_id, retries)

    def is_finished(self) -> bool:
        """Return whether no trial will follow; Tune would wait for one in long rounds."""
        return self._source.is_finished()

    def save_to_dir(self, dirpath: str, **kwargs: Any) -> None:
        """Save nothing: the next launch finds what is left in the store."""

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune saves its search for a restore, which a launch never does.


class CellScheduler(FIFOScheduler):
    """Gives free processes to the right trials, and more memory to trials that lacked it.

    Args:
        shortages: Decides how much more.
        source: Knows which cells have no room yet.
        reported: Called with a cell's id and what its training reports, before it goes on.
    """

    def __init__(
        self,
        shortages: Shortages,
        source: TrialSource,
        reported: Callable[[str, Report | None], None] = lambda cell_id, report: None,
    ) -> None:
        super().__init__()
        self._reported = reported
        self._shortages = shortages
        self._source = source

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Give a trial that Ray's memory monitor killed more memory before it is tried again.

        That does not count as a failure.
        """
        if trial.status != Trial.ERROR:
            return
        config = TrialConfig.from_dict(trial.config)
        larger = self._shortages.after_kill(config, reason_of(trial))
        if larger is not None:
            trial.config = larger.to_dict()
            trial.update_resources(resource_request(larger))
            trial.max_failures += 1

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: TuneDict) -> str:
        """Let every trial go on: one that is to stop finds that in its folder, and ends itself."""
        self._reported(cell_of(trial), TrialReport.from_dict(result).training)
        return FIFOScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the trial for the next free process: the one that was released into its room.

        Tune would give it to any pending trial, even to one whose own process is starting. That
        start would be stopped, and where starts are slow, room would stay empty for long.
        """
        pending = [t for t in tune_controller.get_trials() if t.status == Trial.PENDING]
        without_room = self._source.without_room()
        # All but the last one with room were released earlier, and their processes are starting.
        with_room = [trial for trial in pending if cell_of(trial) not in without_room]
        return next(iter(with_room[-1:] or pending), None)

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune saves its scheduler for a restore, which a launch never does.
