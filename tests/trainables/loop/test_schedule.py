"""The learning rate of every step against the published study's, made with its own code."""

import math

import numpy as np
import pytest

from trainables.loop.optimizer import learning_rate, scaled_lr
from trainables.recipe import Recipe

STEPS_PER_EPOCH, EPOCHS = 10, 30
PUBLISHED = Recipe(epochs=EPOCHS, warmup_epochs=20)


def rates(recipe=PUBLISHED, **arguments):
    steps = range(STEPS_PER_EPOCH * recipe.epochs)
    options = {"recipe": recipe, "steps_per_epoch": STEPS_PER_EPOCH, "base_lr": 1e-3} | arguments
    return np.array([learning_rate(step, **options) for step in steps])


def test_rates_are_the_published_ones(reference):
    with np.load(reference / "units_A.npz") as arrays:
        expected = arrays["lr/single"][:, 0]
    np.testing.assert_allclose(rates(), expected, rtol=0, atol=1e-12)


def test_frozen_backbone_has_the_published_rates(reference):
    with np.load(reference / "units_A.npz") as arrays:
        expected = arrays["lr/backbone0.01_frozen5"]
    backbone = rates(base_lr=1e-5, frozen_epochs=5)
    ours = np.stack([backbone, rates(), rates(), backbone], axis=1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_prefixed_warmup_moves_the_whole_cosine_behind_it():
    recipe = PUBLISHED.model_copy(update={"warmup_prefix": True})
    cosine = [
        1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)
    ]
    np.testing.assert_allclose(rates(recipe)[200:], cosine, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(rates(recipe)[:200], rates()[:200])


def test_without_warmup_the_first_step_uses_the_full_rate():
    assert rates(Recipe(epochs=3, warmup_epochs=0))[0] == 1e-3


@pytest.mark.parametrize(("accumulation", "expected"), [(2, 1e-3 * 512 / 1024), (8, 1e-3 * 2)])
def test_rate_grows_with_the_effective_batch(accumulation, expected):
    recipe = Recipe(batch_size=256, accumulation=accumulation)
    assert scaled_lr(recipe) == pytest.approx(expected, rel=1e-15)
