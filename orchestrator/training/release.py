"""The order in which the cells of a launch begin: critical path first. Knows neither Ray nor files.

A released cell without room waits in Ray's queue, where the first cell that fits goes first. Hardly
more cells are therefore released than fit. Otherwise short cells would overtake a long one that
needs a whole GPU again and again, and it would end up running alone.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trainables.trial.config import TrialConfig


@dataclass
class ReleaseOrder:
    """The cells of a launch that have not begun, and what each of them waits for.

    A cell waits for those of its prerequisites that are among them; all others are done.
    """

    configs: Sequence[TrialConfig]
    cost: Callable[[TrialConfig], float]
    """Expected duration of a cell, in any one unit."""
    room: Callable[[], Mapping[str, float]]
    """Returns all CPUs and GPUs of the cluster as it is now, as `{"CPU": 8, "GPU": 1}`."""
    ahead: int = 1
    """Cells released beyond those that fit."""
    max_concurrent: int | None = None
    """Most cells alive at once; None sets no limit."""
    _waiting: dict[str, TrialConfig] = field(init=False, default_factory=dict)
    """By id, the critical path first."""
    _followers: defaultdict[str, list[str]] = field(init=False)
    """Ids of cells by the id of what they wait for."""
    _unfinished: set[str] = field(init=False)
    """Ids of cells that have not finished."""
    _live: dict[str, TrialConfig] = field(init=False, default_factory=dict)
    """Released and not ended, by id, in the order of their release."""

    def __post_init__(self) -> None:
        paths = critical_paths(self.configs, self.cost)
        longest_first = sorted(self.configs, key=lambda c: paths[c.cell_id], reverse=True)
        self._waiting = {config.cell_id: config for config in longest_first}
        self._unfinished = set(self._waiting)
        self._followers = _followers(self.configs)

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> TrialConfig | None:
        """Release the next cell; return None while none may begin."""
        config = None if self._is_full() else self._first_ready()
        if config is not None:
            self._live[config.cell_id] = self._waiting.pop(config.cell_id)
        return config

    def is_stuck(self) -> bool:
        """Return whether no cell will follow; those left wait for one that did not finish."""
        return not self._live and self._first_ready() is None

    def without_room(self) -> list[str]:
        """Return the ids of released cells that do not fit beside those released before them."""
        left, without_room = dict(self.room()), []
        for cell_id, config in self._live.items():
            wanted = {"CPU": config.cpu * config.workers, "GPU": config.gpu * config.workers}
            if any(left.get(kind, 0.0) < amount - 1e-6 for kind, amount in wanted.items()):
                without_room.append(cell_id)
            else:
                left = {kind: left.get(kind, 0.0) - amount for kind, amount in wanted.items()}
        return without_room

    def stopped(self, cell_id: str) -> TrialConfig:
        """Remove a cell that is no longer alive; cells that wait for it still do."""
        return self._live.pop(cell_id)

    def again(self, config: TrialConfig) -> None:
        """Put a cell that has stopped before all others, to be released again as `config` says."""
        self._waiting = {config.cell_id: config} | self._waiting

    def finished(self, cell_id: str) -> list[str]:
        """Mark a cell as finished; return the cells that waited for it and for no other one."""
        self._unfinished.discard(cell_id)
        return [follower for follower in self._waiting_for(cell_id) if self._is_ready(follower)]

    def failed(self, cell_id: str) -> list[tuple[str, str]]:
        """Remove the cells that wait for a failed one; return each with what it waited for."""
        given_up = []
        for follower in self._waiting_for(cell_id):
            if self._waiting.pop(follower, None):  # It may have waited for a follower, too.
                given_up += [(follower, cell_id), *self.failed(follower)]
        return given_up

    def _is_full(self) -> bool:
        if self.max_concurrent is not None and len(self._live) >= self.max_concurrent:
            return True
        return len(self.without_room()) >= self.ahead

    def _first_ready(self) -> TrialConfig | None:
        ready = (c for cell_id, c in self._waiting.items() if self._is_ready(cell_id))
        return next(ready, None)

    def _is_ready(self, cell_id: str) -> bool:
        return self._unfinished.isdisjoint(self._waiting[cell_id].prerequisites)

    def _waiting_for(self, cell_id: str) -> list[str]:
        return [cell for cell in self._followers[cell_id] if cell in self._waiting]


def critical_paths(
    configs: Sequence[TrialConfig], cost: Callable[[TrialConfig], float]
) -> dict[str, float]:
    """Return each cell's cost plus that of the longest chain of cells that waits for it."""
    followers, cells = _followers(configs), {config.cell_id: config for config in configs}
    paths: dict[str, float] = {}

    def path(cell_id: str) -> float:
        if cell_id not in paths:
            longest = max(map(path, followers[cell_id]), default=0.0)
            paths[cell_id] = cost(cells[cell_id]) + longest
        return paths[cell_id]

    for cell_id in cells:
        path(cell_id)
    return paths


def _followers(configs: Sequence[TrialConfig]) -> defaultdict[str, list[str]]:
    followers: defaultdict[str, list[str]] = defaultdict(list)
    for config in configs:
        for cell_id in config.prerequisites:
            followers[cell_id].append(config.cell_id)
    return followers
