"""How an attempt at training is gentler than one that ended on a number that is not finite."""

from trainables.cell import Cell
from trainables.recipe import Recipe

CLIP_GRAD = 1.0
"""Largest gradient norm of every retry."""
RATES = ("lr", "min_lr", "warmup_lr")

Changes = dict[str, float]
"""Field of a recipe -> its value for an attempt."""


def gentler_changes(recipe: Recipe) -> list[Changes]:
    """Return what each retry in turn changes of a recipe; after the last one the cell is lost.

    The first clips gradients, the second halves all learning rates as well. A recipe that already
    clips as hard has the second kind alone: the first would only fail again at the same step.
    """
    clips = recipe.clip_grad is not None and recipe.clip_grad <= CLIP_GRAD
    clipped: Changes = {} if clips else {"clip_grad": CLIP_GRAD}
    halved = {name: getattr(recipe, name) / 2 for name in RATES}
    return [changes for changes in (clipped, clipped | halved) if changes]


def changes_after(recipe: Recipe, attempts: int) -> Changes:
    """Return what the next attempt changes after so many that ended; {} for the first one."""
    changes = [{}, *gentler_changes(recipe)]
    return changes[min(attempts, len(changes) - 1)]


def lost_after(recipe: Recipe, attempts: int) -> bool:
    """Tell whether no gentler attempt follows so many."""
    return attempts > len(gentler_changes(recipe))


def with_changes(cell: Cell, changes: Changes) -> Cell:
    """Return the cell as an attempt trains it, under the id it has as it was asked for."""
    gentler = cell.model_copy(update={"recipe": cell.recipe.model_copy(update=changes)})
    gentler.__dict__["id"] = cell.id  # Rather than one computed from what is changed.
    return gentler
