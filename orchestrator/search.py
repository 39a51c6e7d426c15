"""Tune's search algorithm of a study: it releases cells as trials, the longest first."""

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Experiment, Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.search import SearchAlgorithm


class CellSearch(SearchAlgorithm):
    """Turns every value of the Tune grid into one trial, named after its cell.

    Args:
        cost: Expected relative duration of a trial's configuration; longer ones go first, so
            that no long cell is left running alone at the end.
        retries: How often a trial's configuration may fail and be tried again.
        stopping: Tells that no further trial may begin.
        max_concurrent: Most trials alive at once; None leaves it to the resources.
    """

    def __init__(
        self,
        *,
        cost: Callable[[dict[str, Any]], float],
        retries: Callable[[dict[str, Any]], int],
        stopping: Callable[[], bool],
        max_concurrent: int | None = None,
    ) -> None:
        self._cost = cost
        self._retries = retries
        self._stopping = stopping
        self._max_concurrent = max_concurrent
        self._waiting: list[dict[str, Any]] = []
        self._live: set[str] = set()
        self._spec: dict[str, Any] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Take the grid of trial configurations from Tune's parameter space."""
        self._waiting = sorted(config["trial"]["grid_search"], key=self._cost, reverse=True)
        return True

    def add_configurations(self, experiments: Experiment | list[Experiment]) -> None:
        """Take from the experiment what every trial has in common."""
        experiment = experiments[0] if isinstance(experiments, list) else experiments
        self._spec = dict(experiment.spec)

    @property
    def total_samples(self) -> int:
        """Trials still to be released."""
        return len(self._waiting)

    def next_trial(self) -> Trial | None:
        """Return the next cell's trial, None while none may begin."""
        full = self._max_concurrent is not None and len(self._live) >= self._max_concurrent
        if full or self.is_finished():
            return None
        config = self._waiting.pop(0)
        cell_id = config["cell_id"]
        self._live.add(cell_id)
        trial = _create_trial_from_spec(
            self._spec | {"config": config},
            _make_parser(),
            trial_id=cell_id,
            experiment_tag=cell_id,
            evaluated_params={"cell": cell_id},
        )
        trial.max_failures = self._retries(config)
        return trial

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Make room for another trial."""
        self._live.discard(trial_id)

    def is_finished(self) -> bool:
        """Tell Tune that no trial will follow, or it would sleep in long rounds."""
        return not self._waiting or self._stopping()

    def save_to_dir(self, dirpath: str, **kwargs: Any) -> None:
        """Keep nothing: the store tells the next launch what is left."""
