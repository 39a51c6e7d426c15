"""Which cell goes on in a process that has trained another one."""

from collections.abc import Callable, Container
from typing import Any

from ray.tune.experiment import Trial

from orchestrator.packing.shortages import MemoryScheduler, Shortages
from orchestrator.training.observer import cell_of


class CellScheduler(MemoryScheduler):
    """Hands a process that has trained a cell on to the one that took the place of that cell.

    Tune would give it to any cell that waits, also to one whose own process is starting: it would
    stop that start, and so, where starts are slow, leave places empty for long.

    Args:
        shortages: See `MemoryScheduler`.
        without_room: Returns the ids of the released cells for which there is no room yet.
    """

    def __init__(self, shortages: Shortages, without_room: Callable[[], Container[str]]) -> None:
        super().__init__(shortages)
        self._without_room = without_room

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the trial that the next free process is for."""
        pending = [t for t in tune_controller.get_trials() if t.status == Trial.PENDING]
        without_room = self._without_room()
        # All before the last one have had room, and a process on its way, for longer.
        placed = [trial for trial in pending if cell_of(trial) not in without_room]
        return next(iter(placed[-1:] or pending), None)
