"""Ray tasks beside the trials: a bounded number in flight, polled by the driver."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import ray

TASK_POLL_SECONDS = 0.2
"""How long `outcomes` waits for a task before it ticks."""
TASK_RETRIES = 5
"""How often a task is repeated whose process dies, alone or with its node."""


@dataclass(frozen=True)
class Call:
    """One call of a pool's function."""

    key: str
    """Comes back with its outcome; Ray's dashboard shows it, too."""
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    """Options of Ray, besides those of the function."""


class TaskPool:
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
        self._waiting: deque[Call] = deque()
        self._in_flight: dict[ray.ObjectRef, str] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    def submit(self, key: str, *arguments: Any) -> None:
        """Queue one call; `key` comes back with its outcome."""
        self._waiting.append(Call(key, arguments))
        self._fill()

    def poll(self, seconds: float = 0.0) -> list[tuple[str, Any]]:
        """Return the keys that ended within `seconds`, each with its value or its exception."""
        if not self._in_flight:
            return []
        ready, _ = ray.wait(list(self._in_flight), num_returns=1, timeout=seconds)
        ended = [(self._in_flight.pop(reference), _outcome(reference)) for reference in ready]
        self._fill()
        return ended

    def outcomes(
        self,
        calls: Iterable[Call | None] = (),
        *,
        stopping: Callable[[], bool],
        tick: Callable[[], None] = lambda: None,
    ) -> Generator[tuple[str, Any], None, None]:
        """Yield each key with its value or its exception, in the order in which they end.

        The calls follow those that were submitted. Each is drawn when it can begin at once, so
        that what a generator prepares for it is not there before. When this ends, however it
        ends, the tasks that are left are abandoned.

        Args:
            calls: Further calls; None where the next one has to wait for one that runs.
            stopping: Asked again and again whether to end here.
            tick: Called again and again while tasks run.
        """
        further = iter(calls)
        try:
            while not stopping():
                can_begin = islice(further, max(0, self._limit - len(self)))
                self._waiting.extend(iter(lambda: next(can_begin, None), None))  # noqa: B023
                self._fill()
                if not self:
                    return
                yield from self.poll(TASK_POLL_SECONDS)
                tick()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Drop what waits and cancel what runs; all tasks may be repeated later."""
        self._waiting.clear()
        for reference in self._in_flight:
            ray.cancel(reference, force=True)
        self._in_flight.clear()

    def _fill(self) -> None:
        while self._waiting and len(self._in_flight) < self._limit:
            call = self._waiting.popleft()
            named = self._function.options(name=f"{self._verb} {call.key}", **call.options)
            self._in_flight[named.remote(*call.arguments)] = call.key


def _outcome(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error
