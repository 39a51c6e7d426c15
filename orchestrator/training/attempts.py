"""Attempts at training that ended on a number that is not finite, in words."""

from collections.abc import Mapping, Sequence
from typing import Any


def changes_in_words(changes: Mapping[str, float]) -> str:
    """Return what an attempt changed of the recipe, such as `clip_grad 1, lr 0.0005`."""
    return ", ".join(f"{field} {value:g}" for field, value in changes.items())


def attempt_in_words(attempt: Mapping[str, Any]) -> str:
    """Return how gentle one attempt of `attempts.json` was, where it began and what it found."""
    gentler = f" with {changes_in_words(attempt['gentler'])}" if attempt["gentler"] else ""
    found = ", ".join(f"{name} {float(value):g}" for name, value in attempt["found"].items())
    return (
        f"attempt {attempt['attempt']}{gentler} went from step {attempt['first_step']} to "
        f"{attempt['step']}, where not all is finite: {found}"
    )


def lost_in_words(attempts: Sequence[Mapping[str, Any]]) -> str:
    """Return why a cell is given up, the advice in the last line."""
    lines = [attempt_in_words(attempt) for attempt in attempts]
    return "\n".join(
        [
            "training is not finite, however gentle:",
            *lines,
            f"not finite in {len(attempts)} attempts; {lines[-1].partition(': ')[2]}; "
            "lower the recipe's lr, or mend the data and begin anew with --retry-failed",
        ]
    )
