"""Tune's search algorithm of a study: it turns cells into trials in the order of their release."""

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Experiment, Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.registry import get_trainable_cls
from ray.tune.search import SearchAlgorithm

from orchestrator.training.release import Config, ReleaseOrder
from orchestrator.training.trial import CellTrial

ANOTHER_TRIAL = "~"
"""Parts a cell's id from the number of its trial, where it has more than one in a launch."""


class CellSearch(SearchAlgorithm):
    """Turns every value of the Tune grid into one trial, named after its cell.

    A cell whose prerequisite is in the grid, too, waits until that has finished, and is given up
    if that fails. Prerequisites that are not in the grid are taken as done. A cell that ran out of
    memory gets another trial that reserves more.

    Args:
        cost: Expected relative duration of a trial's configuration. What takes longest goes
            first, together with what waits for it, so that no long cell is left running alone.
        retries: How often a trial's configuration may fail and be tried again.
        stopping: Tells that no further trial may begin.
        held: Tells that none may begin for now.
        room: Returns the CPUs and GPUs that the cluster now has in all.
        ahead: Trials released beyond those for which there is room.
        out_of_memory: Takes a trial's configuration and the error; returns the configuration with
            which the cell begins again, or None where it has failed.
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
        held: Callable[[], bool],
        room: Callable[[], Mapping[str, float]],
        ahead: int,
        out_of_memory: Callable[[Config, str], Config | None],
        on_released: Callable[[str], None],
        on_given_up: Callable[[str, str], None],
        max_concurrent: int | None = None,
    ) -> None:
        self._cost = cost
        self._retries = retries
        self._stopping = stopping
        self._held = held
        self._room = room
        self._ahead = ahead
        self._out_of_memory = out_of_memory
        self._on_released = on_released
        self._on_given_up = on_given_up
        self._max_concurrent = max_concurrent
        self._trials: dict[str, int] = {}
        """How many each cell has had, by id."""
        self._spec: dict[str, Any] = {}
        self._parser = _make_parser()

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Take the grid of trial configurations from Tune's parameter space."""
        self._order = ReleaseOrder(
            config["trial"]["grid_search"],
            self._cost,
            self._room,
            self._ahead,
            self._max_concurrent,
        )
        return True

    def add_configurations(self, experiments: Experiment | list[Experiment]) -> None:
        """Take from the experiment what every trial has in common."""
        experiment = experiments[0] if isinstance(experiments, list) else experiments
        self._spec = dict(experiment.spec)
        self._trainable = get_trainable_cls(self._spec["run"])

    @property
    def total_samples(self) -> int:
        """Trials still to be released."""
        return len(self._order)

    def without_room(self) -> list[str]:
        """Return the ids of released cells for which there is no room yet."""
        return self._order.without_room()

    def next_trial(self) -> Trial | None:
        """Return the next cell's trial, None while none may begin."""
        config = None if self._stopping() or self._held() else self._order.next()
        if config is None:
            return None
        cell_id = config["cell_id"]
        number = self._trials[cell_id] = self._trials.get(cell_id, 0) + 1
        trial_id = cell_id if number == 1 else f"{cell_id}{ANOTHER_TRIAL}{number}"
        trial = _create_trial_from_spec(
            self._spec | {"config": config},
            self._parser,
            trial_id=trial_id,
            experiment_tag=trial_id,
            evaluated_params={"cell": cell_id},
        )
        trial.__class__ = CellTrial  # Tune makes no other trials than its own.
        trial.trainable = self._trainable
        trial.max_failures = self._retries(config)
        return trial

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Make room for another trial, and release or give up the cells that wait for this one."""
        cell_id = trial_id.partition(ANOTHER_TRIAL)[0]
        config, result = self._order.stopped(cell_id), result or {}
        short = result.get("out_of_memory")
        if short and (larger := self._out_of_memory(config, short)):
            self._order.again(larger)
        elif short or error or "attempt_ended" in result:  # With no gentler attempt left.
            for follower, failed in self._order.failed(cell_id):
                self._on_given_up(follower, failed)
        elif result.get("finished"):
            for follower in self._order.finished(cell_id):
                self._on_released(follower)

    def is_finished(self) -> bool:
        """Tell Tune that no trial will follow, or it would sleep in long rounds.

        Cells may be left that wait in vain: for one that was interrupted.
        """
        return self._stopping() or self._order.is_stuck()

    def save_to_dir(self, dirpath: str, **kwargs: Any) -> None:
        """Keep nothing: the store tells the next launch what is left."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its search for a restore, which a launch never does.
