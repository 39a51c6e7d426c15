"""What a launch offers to the tasks that compare, and how they fail."""

from collections.abc import Callable
from dataclasses import dataclass

from trainables.files import DamagedFileError
from trainables.store_path import StorePath

TASK_RETRIES = 5
"""How often a task is repeated whose process dies, alone or with its node."""
IN_FLIGHT_PER_CPU = 2
"""So that what the next ones need is loaded while others compute."""


class ComparisonError(Exception):
    """A comparison task failed; the tables stay as they were, and what was found is kept.

    Its text is one line.

    Attributes:
        details: All that is known of why.
        damaged: The file whose damage was why, if one's was.
    """

    def __init__(self, reason: str, details: str, damaged: StorePath | None = None) -> None:
        super().__init__(reason)
        self.details = details
        self.damaged = damaged


@dataclass(frozen=True)
class Driver:
    """What the driver of a launch offers to a comparison."""

    cpus: int
    """CPUs of the cluster."""
    stopping: Callable[[], bool]
    say: Callable[[str], None]
    tell: Callable[[int, int], None]
    """Told, over and over, how many of how many jobs are done."""


def error_of(name: str, outcome: Exception) -> ComparisonError:
    """Return the error that tells why a task failed."""
    cause = outcome
    while isinstance(inner := getattr(cause, "cause", None), Exception):
        cause = inner  # What a task raised, perhaps one that loads what another needs.
    if isinstance(cause, DamagedFileError):
        return ComparisonError(f"{cause}; the next launch makes it again", str(outcome), cause.path)
    reason = " ".join([f"{type(cause).__name__}:", *str(cause).splitlines()[:1]])
    return ComparisonError(f"comparing {name} failed: {reason}", str(outcome))
