"""What a launch offers to comparisons, and the error with which they fail."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.cluster.task_pool import TASK_RETRIES, Call, TaskPool
from orchestrator.console import Context
from trainables.storage.files import DamagedFileError
from trainables.storage.paths import StorePath

IN_FLIGHT_PER_CPU = 2
"""Tasks for each CPU, so that what the next ones need is loaded while others compute."""


class ComparisonError(Exception):
    """A comparison task failed; tables are unchanged, and results so far are kept.

    Its text is one line.

    Attributes:
        details: The whole error.
        damaged: The damaged file that caused it, if one did.
    """

    def __init__(self, reason: str, details: str, damaged: StorePath | None = None) -> None:
        super().__init__(reason)
        self.details = details
        self.damaged = damaged


@dataclass(frozen=True)
class ComparisonContext:
    """What a launch gives to a comparison."""

    cpus: int
    """CPUs of the cluster."""
    launch: Context

    def in_tasks(
        self,
        function: Callable[..., Any],
        calls: Iterable[Call | None],
        verb: str,
        tick: Callable[[], None],
    ) -> Generator[tuple[str, Any], None, None]:
        """Yield what a function returns for each call, by its key, until the launch is stopping.

        Args:
            function: Run in Ray tasks of one CPU each.
            calls: What to call it with; None where the next one has to wait for one that runs.
            verb: What it does, for Ray's dashboard.
            tick: Called again and again while tasks run.

        Raises:
            ComparisonError: It raised; the other tasks are abandoned.
        """
        task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(function)
        pool = TaskPool(task, self.cpus * IN_FLIGHT_PER_CPU, verb)
        with closing(
            pool.outcomes(calls, stopping=lambda: self.launch.stopping, tick=tick)
        ) as outcomes:
            for key, outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise comparison_error(key, outcome) from outcome
                yield key, outcome


def comparison_error(name: str, outcome: Exception) -> ComparisonError:
    """Return the error that says why a task failed."""
    cause = outcome
    while isinstance(inner := getattr(cause, "cause", None), Exception):
        cause = inner  # What a task raised, perhaps one that loads what another needs.
    if isinstance(cause, DamagedFileError):
        return ComparisonError(f"{cause}; the next launch makes it again", str(outcome), cause.path)
    reason = " ".join([f"{type(cause).__name__}:", *str(cause).splitlines()[:1]])
    return ComparisonError(f"comparing {name} failed: {reason}", str(outcome))
