"""The learning rate of every optimiser step, as a pure function of the step."""

import math

from trainables.recipe import Recipe


def scaled_lr(recipe: Recipe) -> float:
    """Return the recipe's learning rate for its effective batch, linearly scaled."""
    return recipe.lr * (recipe.batch_size * recipe.accumulation) / recipe.lr_reference_batch


def learning_rate(
    step: int, *, recipe: Recipe, steps_per_epoch: int, base_lr: float, frozen_epochs: int = 0
) -> float:
    """Return the learning rate that optimiser step `step` uses.

    A linear warm-up from `recipe.warmup_lr` towards `base_lr`, then a cosine to `recipe.min_lr`
    over all steps. As in the published study the warm-up covers the cosine's beginning, so the
    rate falls at its end, unless `recipe.warmup_prefix` moves the cosine behind the warm-up.

    Args:
        step: Optimiser steps done before this one, from 0.
        recipe: Lengths in epochs and the absolute rates at both ends.
        steps_per_epoch: Optimiser steps in an epoch.
        base_lr: The parameter group's own rate, where warm-up and cosine meet.
        frozen_epochs: Epochs from the start in which the rate is 0.
    """
    if step < frozen_epochs * steps_per_epoch:
        return 0.0
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.warmup_lr + step * (base_lr - recipe.warmup_lr) / warmup
    total = recipe.epochs * steps_per_epoch
    if recipe.warmup_prefix:
        step, total = step - warmup, total - warmup
    return recipe.min_lr + 0.5 * (base_lr - recipe.min_lr) * (1 + math.cos(math.pi * step / total))
