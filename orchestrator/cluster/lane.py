"""Ray tasks beside the trials: bounded in flight, polled by the driver."""

from collections import deque
from typing import Any

import ray


class Lane:
    """Runs one remote function over many keys, a few at a time.

    Args:
        function: A Ray remote function.
        limit: Most tasks in flight at once.
        verb: What it does; Ray's dashboard shows each task as `VERB KEY`.
    """

    def __init__(self, function: Any, limit: int, verb: str) -> None:
        self._function = function
        self._verb = verb
        self._limit = limit
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._in_flight: dict[ray.ObjectRef, str] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    def keys(self) -> list[str]:
        """Return the keys whose outcome is still to come, in the order of their submission."""
        return [*self._in_flight.values(), *(key for key, _ in self._waiting)]

    @property
    def has_room(self) -> bool:
        """Whether what is submitted now would begin at once."""
        return len(self) < self._limit

    def submit(self, key: str, *arguments: Any) -> None:
        """Queue one call; `key` comes back with its outcome."""
        self._waiting.append((key, arguments))
        self._fill()

    def poll(self, seconds: float = 0.0) -> list[tuple[str, Any]]:
        """Return the keys that ended within `seconds`, each with its value or its exception."""
        if not self._in_flight:
            return []
        ready, _ = ray.wait(list(self._in_flight), num_returns=1, timeout=seconds)
        ended = [(self._in_flight.pop(reference), _outcome(reference)) for reference in ready]
        self._fill()
        return ended

    def abandon(self) -> None:
        """Forget what waits and cancel what runs; repeating it later is harmless."""
        self._waiting.clear()
        for reference in self._in_flight:
            ray.cancel(reference, force=True)
        self._in_flight.clear()

    def _fill(self) -> None:
        while self._waiting and len(self._in_flight) < self._limit:
            key, arguments = self._waiting.popleft()
            named = self._function.options(name=f"{self._verb} {key}")
            self._in_flight[named.remote(*arguments)] = key


def _outcome(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error
