"""How a retry is gentler, and that the cell stays the one that was asked for."""

import pytest

from trainables.cell.not_finite import (
    changes_after,
    fallback_changes,
    is_last_attempt,
    with_changes,
)
from trainables.recipe import Recipe

HALVED = {"lr": 5e-4, "min_lr": 5e-6, "warmup_lr": 5e-7}


@pytest.mark.parametrize("clip_grad", [None, 5.0])
def test_a_retry_clips_and_the_next_halves_the_rates_as_well(clip_grad):
    recipe = Recipe(clip_grad=clip_grad)
    changes = [changes_after(recipe, attempts) for attempts in range(4)]
    assert changes == [
        {},
        {"clip_grad": 1.0},
        {"clip_grad": 1.0, **HALVED},
        {"clip_grad": 1.0, **HALVED},
    ]
    assert [is_last_attempt(recipe, attempts) for attempts in range(4)] == [
        False,
        False,
        False,
        True,
    ]


def test_no_retry_repeats_a_recipe_that_clips_as_hard():
    recipe = Recipe(clip_grad=0.5)
    assert fallback_changes(recipe) == [HALVED]
    assert [is_last_attempt(recipe, attempts) for attempts in (1, 2)] == [False, True]


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_gentler_cell_keeps_its_id(make_cell, asked_before):
    cell = make_cell()
    expected = make_cell().id
    if asked_before:
        assert cell.id == expected
    gentler = with_changes(cell, {"clip_grad": 1.0, "lr": 1e-5})
    assert (gentler.recipe.clip_grad, gentler.recipe.lr) == (1.0, 1e-5)
    assert gentler.recipe.epochs == cell.recipe.epochs
    assert gentler.id == cell.id == expected


def test_another_copy_of_a_cell_has_an_id_of_its_own(make_cell):
    cell = make_cell()
    assert cell.id == make_cell().id
    assert cell.model_copy(update={"seed": 7}).id != cell.id
    assert cell.model_copy(update={"seed": 7}).model_copy(update={"seed": cell.seed}).id == cell.id
