"""Fallback recipes, for attempts that follow one that ended on a number that is not finite."""

import math
from collections.abc import Mapping, Sequence

from trainables.cell.cell import Cell
from trainables.cell.json_records import Attempt
from trainables.recipe import Recipe

CLIP_GRAD = 1.0
"""Largest gradient norm of every fallback recipe."""
RATES = ("lr", "min_lr", "warmup_lr")

Changes = dict[str, float]
"""What an attempt changes of its recipe: field -> value."""


def fallback_changes(recipe: Recipe) -> list[Changes]:
    """Return what each fallback recipe changes, in the order in which they are tried.

    The first clips gradients; the second also halves all learning rates. A recipe that already
    clips as hard has only the second, because the first would fail again at the same step.
    """
    clips = recipe.clip_grad is not None and recipe.clip_grad <= CLIP_GRAD
    clipped: Changes = {} if clips else {"clip_grad": CLIP_GRAD}
    halved = {name: getattr(recipe, name) / 2 for name in RATES}
    return [changes for changes in (clipped, clipped | halved) if changes]


def changes_after(recipe: Recipe, attempts: int) -> Changes:
    """Return what the attempt after so many others changes; {} for the first one."""
    changes = [{}, *fallback_changes(recipe)]
    return changes[min(attempts, len(changes) - 1)]


def is_last_attempt(recipe: Recipe, attempts: int) -> bool:
    """Return whether no fallback recipe is left after so many attempts."""
    return attempts > len(fallback_changes(recipe))


def with_changes(cell: Cell, changes: Changes) -> Cell:
    """Return the cell with a changed recipe, under the id that it has with its own."""
    return cell.with_recipe(cell.recipe.model_copy(update=changes))


class NonFiniteError(RuntimeError):
    """An optimiser step after which the weights cannot be used.

    Args:
        step: Optimiser steps before it. The weights after fewer steps are good; those after as
            many lead here.
        found: What the step found, by name: the terms of the loss, the gradients' norm.
    """

    def __init__(self, step: int, found: Mapping[str, float]) -> None:
        super().__init__(step, dict(found))  # Pickle calls the class with these.
        self.step = step
        self.found = dict(found)

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:g}" for name, value in self.found.items())
        return f"not finite after {self.step} optimiser steps: {values}"


def require_finite(step: int, found: Mapping[str, float]) -> None:
    """Check the numbers that optimiser step `step`, counted from 0, found.

    Raises:
        NonFiniteError: One of them is infinite or not a number.
    """
    if not all(map(math.isfinite, found.values())):
        raise NonFiniteError(step, found)


def changes_in_words(changes: Mapping[str, float]) -> str:
    """Return what an attempt changed of its recipe, such as `clip_grad 1, lr 0.0005`."""
    return ", ".join(f"{field} {value:g}" for field, value in changes.items())


def attempt_in_words(attempt: Attempt) -> str:
    """Return what an attempt changed of its recipe, where it began and how it ended."""
    changes = f" with {changes_in_words(attempt['gentler'])}" if attempt["gentler"] else ""
    found = ", ".join(f"{name} {float(value):g}" for name, value in attempt["found"].items())
    return (
        f"attempt {attempt['attempt']}{changes} ran from step {attempt['first_step']} to "
        f"{attempt['step']}, where a value was not finite: {found}"
    )


def failure_in_words(attempts: Sequence[Attempt]) -> str:
    """Return why a cell has failed after these attempts; the last line says what to do."""
    lines = [attempt_in_words(attempt) for attempt in attempts]
    return "\n".join(
        [
            "training is not finite with any of its recipes:",
            *lines,
            f"not finite in {len(attempts)} attempts; {lines[-1].partition(': ')[2]}; "
            "lower the recipe's lr, or fix the data and start over with --retry-failed",
        ]
    )
