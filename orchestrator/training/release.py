"""In which order the cells of a launch begin: the critical path first. Knows neither Ray nor files.

What is released but finds no place yet waits in Ray's queue, where whatever fits first goes first.
So hardly more cells are released than fit: a long cell that needs a whole GPU would otherwise be
overtaken by short ones, over and over, and end up running alone.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]
"""Of a trial: `cell_id`, `prerequisite` (a cell's id or None), `cpu`, `gpu` and `workers`, and
whatever else the trainable takes."""


@dataclass
class ReleaseOrder:
    """The cells of a launch that have not begun, and what each of them waits for.

    A cell whose prerequisite is among them, too, waits until that has finished. Prerequisites that
    are not among them are taken as done.
    """

    configs: Sequence[Config]
    cost: Callable[[Config], float]
    """Expected duration of a cell, in any one unit."""
    room: Callable[[], Mapping[str, float]]
    """CPUs and GPUs that the cluster now has in all, as `{"CPU": 8, "GPU": 1}`."""
    ahead: int = 1
    """Cells released beyond those for which there is room."""
    max_concurrent: int | None = None
    """Most cells alive at once; None leaves it to the room."""
    _waiting: dict[str, Config] = field(init=False, default_factory=dict)
    """By id, the critical path first."""
    _followers: defaultdict[str | None, list[str]] = field(init=False)
    """Ids of cells by the id of what they wait for."""
    _unfinished: set[str] = field(init=False)
    """Ids of cells that others may still have to wait for."""
    _live: dict[str, Config] = field(init=False, default_factory=dict)
    """By id, in the order of their release."""

    def __post_init__(self) -> None:
        paths = critical_paths(self.configs, self.cost)
        longest_first = sorted(self.configs, key=lambda c: paths[c["cell_id"]], reverse=True)
        self._waiting = {config["cell_id"]: config for config in longest_first}
        self._unfinished = set(self._waiting)
        self._followers = _followers(self.configs)

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> Config | None:
        """Release the next cell, None while none may begin."""
        config = None if self._is_full() else self._first_ready()
        if config is not None:
            self._live[config["cell_id"]] = self._waiting.pop(config["cell_id"])
        return config

    def is_stuck(self) -> bool:
        """Tell whether no cell will follow: what is left, if anything, waits in vain."""
        return not self._live and self._first_ready() is None

    def without_room(self) -> list[str]:
        """Return the ids of released cells for which those before them leave no room."""
        left, without_room = dict(self.room()), []
        for cell_id, config in self._live.items():
            wanted = {kind: config[kind.lower()] * config["workers"] for kind in ("CPU", "GPU")}
            if any(left.get(kind, 0.0) < amount - 1e-6 for kind, amount in wanted.items()):
                without_room.append(cell_id)
            else:
                left = {kind: left.get(kind, 0.0) - amount for kind, amount in wanted.items()}
        return without_room

    def stopped(self, cell_id: str) -> Config:
        """Take a cell that is no longer alive; whoever waits for it goes on waiting."""
        return self._live.pop(cell_id)

    def again(self, config: Config) -> None:
        """Put a cell that has stopped before all others, to be released anew as `config` says."""
        self._waiting = {config["cell_id"]: config} | self._waiting

    def finished(self, cell_id: str) -> list[str]:
        """Return the cells that a cell has released by finishing."""
        self._unfinished.discard(cell_id)
        return self._waiting_for(cell_id)

    def failed(self, cell_id: str) -> list[tuple[str, str]]:
        """Give up what waits for a cell; return those with the one that each waited for."""
        given_up = []
        for follower in self._waiting_for(cell_id):
            del self._waiting[follower]
            given_up += [(follower, cell_id), *self.failed(follower)]
        return given_up

    def _is_full(self) -> bool:
        if self.max_concurrent is not None and len(self._live) >= self.max_concurrent:
            return True
        return len(self.without_room()) >= self.ahead

    def _first_ready(self) -> Config | None:
        ready = (c for c in self._waiting.values() if c["prerequisite"] not in self._unfinished)
        return next(ready, None)

    def _waiting_for(self, cell_id: str) -> list[str]:
        return [cell for cell in self._followers[cell_id] if cell in self._waiting]


def critical_paths(configs: Sequence[Config], cost: Callable[[Config], float]) -> dict[str, float]:
    """Return for each cell its cost and that of the longest chain of cells that waits for it."""
    followers, cells = _followers(configs), {config["cell_id"]: config for config in configs}
    paths: dict[str, float] = {}

    def path(cell_id: str) -> float:
        if cell_id not in paths:
            longest = max(map(path, followers[cell_id]), default=0.0)
            paths[cell_id] = cost(cells[cell_id]) + longest
        return paths[cell_id]

    for cell_id in cells:
        path(cell_id)
    return paths


def _followers(configs: Sequence[Config]) -> defaultdict[str | None, list[str]]:
    followers: defaultdict[str | None, list[str]] = defaultdict(list)
    for config in configs:
        followers[config["prerequisite"]].append(config["cell_id"])
    return followers
