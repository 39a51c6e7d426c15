"""Tune's search algorithm of a study: it releases cells as trials, the critical path first."""

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Experiment, Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.search import SearchAlgorithm

Config = dict[str, Any]
"""Of a trial: `cell_id`, `prerequisite` (a cell's id or None) and whatever the trainable takes."""


class CellSearch(SearchAlgorithm):
    """Turns every value of the Tune grid into one trial, named after its cell.

    A cell whose prerequisite is in the grid, too, waits until that has finished, and is given up
    if that fails. Prerequisites that are not in the grid are taken as done.

    Args:
        cost: Expected relative duration of a trial's configuration. What takes longest goes
            first, together with what waits for it, so that no long cell is left running alone.
        retries: How often a trial's configuration may fail and be tried again.
        stopping: Tells that no further trial may begin.
        on_released: Called with the id of a cell as its prerequisite finishes.
        on_given_up: Called with the id of a cell whose prerequisite failed, and with that one's.
        max_concurrent: Most trials alive at once; None leaves it to the resources.
    """

    def __init__(
        self,
        *,
        cost: Callable[[Config], float],
        retries: Callable[[Config], int],
        stopping: Callable[[], bool],
        on_released: Callable[[str], None],
        on_given_up: Callable[[str, str], None],
        max_concurrent: int | None = None,
    ) -> None:
        self._cost = cost
        self._retries = retries
        self._stopping = stopping
        self._on_released = on_released
        self._on_given_up = on_given_up
        self._max_concurrent = max_concurrent
        self._waiting: list[Config] = []
        """Longest first."""
        self._unfinished: set[str] = set()
        """Of the grid's cells those that others may still have to wait for."""
        self._live: set[str] = set()
        self._spec: dict[str, Any] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Take the grid of trial configurations from Tune's parameter space."""
        grid: list[Config] = config["trial"]["grid_search"]
        self._unfinished = {config["cell_id"] for config in grid}
        self._waiting = sorted(grid, key=lambda cell: self._path(cell, grid), reverse=True)
        return True

    def _path(self, config: Config, grid: list[Config]) -> float:
        """Return the cost of a cell and of the longest chain of cells that waits for it."""
        followers = [other for other in grid if other["prerequisite"] == config["cell_id"]]
        longest = max((self._path(follower, grid) for follower in followers), default=0.0)
        return self._cost(config) + longest

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
        config = None if full or self._stopping() else self._first_ready()
        if config is None:
            return None
        self._waiting.remove(config)
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
        """Make room for another trial, and release or give up the cells that wait for this one."""
        self._live.discard(trial_id)
        result = result or {}
        if error or "attempt_ended" in result:  # With no gentler attempt left.
            self._give_up_followers(trial_id)
        elif result.get("finished"):
            self._unfinished.discard(trial_id)
            for follower in self._followers(trial_id):
                self._on_released(follower["cell_id"])

    def is_finished(self) -> bool:
        """Tell Tune that no trial will follow, or it would sleep in long rounds.

        Cells may be left that wait in vain: for one that was interrupted.
        """
        return self._stopping() or not (self._live or self._first_ready())

    def _first_ready(self) -> Config | None:
        ready = (cell for cell in self._waiting if cell["prerequisite"] not in self._unfinished)
        return next(ready, None)

    def _followers(self, cell_id: str) -> list[Config]:
        return [config for config in self._waiting if config["prerequisite"] == cell_id]

    def _give_up_followers(self, cell_id: str) -> None:
        for follower in self._followers(cell_id):
            self._waiting.remove(follower)
            self._on_given_up(follower["cell_id"], cell_id)
            self._give_up_followers(follower["cell_id"])

    def save_to_dir(self, dirpath: str, **kwargs: Any) -> None:
        """Keep nothing: the store tells the next launch what is left."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its search for a restore, which a launch never does.
