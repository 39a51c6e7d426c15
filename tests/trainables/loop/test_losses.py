"""Losses against the arrays of the published study and their definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from trainables.loop.objective import build_criterion, build_mixup, image_losses, keep_rate_penalty
from trainables.recipe import Recipe

GOLDENS = Path(__file__).parents[2] / "data" / "goldens"
PLAIN = Recipe(mixup=0, cutmix=0, label_smoothing=0)


@pytest.fixture(scope="module")
def logits():
    return torch.randn(8, 10, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture(scope="module")
def classes():
    return torch.arange(8)


@pytest.fixture(scope="module")
def labels():
    return (torch.rand(8, 10, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def log_softmax(logits):
    values = logits.double().numpy()
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def asymmetric(recipe, logits, labels):
    """Equations 5 to 7 of Ridnik et al., summed over classes."""
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    shifted = np.maximum(p - recipe.asymmetric_clip, 0)
    y = labels.numpy()
    positive = (1 - p) ** recipe.asymmetric_gamma_positive * np.log(p)
    negative = shifted**recipe.asymmetric_gamma_negative * np.log(1 - shifted)
    return -(y * positive + (1 - y) * negative).sum(axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_spreads_the_smoothed_mass_over_all_classes(logits, classes, smoothing):
    criterion = build_criterion(
        PLAIN.model_copy(update={"label_smoothing": smoothing}), "single_label"
    )
    target = np.full((8, 10), smoothing / 10)
    target[np.arange(8), classes] += 1 - smoothing
    expected = -(target * log_softmax(logits)).sum(axis=1).mean()
    assert criterion(logits, classes).item() == pytest.approx(expected, rel=1e-6)


def test_mixed_targets_get_soft_cross_entropy(logits, classes):
    mixup = build_mixup(Recipe(), "single_label", 10)
    _, targets = mixup(torch.randn(8, 3, 16, 16), classes)
    expected = -(targets.double().numpy() * log_softmax(logits)).sum(axis=1).mean()
    criterion = build_criterion(Recipe(), "single_label")
    assert criterion(logits, targets).item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))


def test_mixup_mixes_each_image_with_its_mirror_in_the_batch(classes):
    recipe = Recipe(cutmix=0, label_smoothing=0)
    originals = torch.randn(8, 3, 16, 16)
    images, targets = build_mixup(recipe, "single_label", 10)(originals.clone(), classes)
    share = targets[0, 0]
    torch.testing.assert_close(images, share * originals + (1 - share) * originals.flip(0))
    assert 0 < share < 1


@pytest.mark.parametrize("gamma_positive", [0.0, 1.0])
def test_several_labels_get_the_asymmetric_loss(logits, labels, gamma_positive):
    recipe = Recipe(asymmetric_gamma_positive=gamma_positive)
    expected = asymmetric(recipe, logits, labels)
    loss = build_criterion(recipe, "multi_label")(logits, labels)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)
    losses = image_losses(recipe, "multi_label", logits, labels)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-5)


def test_asymmetric_loss_is_computed_in_float32(logits, labels):
    criterion = build_criterion(Recipe(), "multi_label")
    assert criterion(logits.bfloat16(), labels).dtype is torch.float32


def test_loss_of_an_image_knows_no_smoothing(logits, classes):
    expected = -log_softmax(logits)[np.arange(8), classes]
    losses = image_losses(Recipe(), "single_label", logits, classes)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-5)


def test_nothing_is_mixed_where_the_recipe_or_the_task_does_not_mix():
    assert build_mixup(PLAIN, "single_label", 10) is None
    assert build_mixup(Recipe(), "multi_label", 10) is None


def test_the_keep_rate_penalty_completes_the_study_s_loss_without_a_teacher():
    with np.load(GOLDENS / "training_A.npz") as arrays:
        decisions = [torch.from_numpy(arrays[f"losses/keep{stage}"]) for stage in range(3)]
        logits, labels = arrays["losses/logits"], arrays["losses/hard_labels"]
    base = cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels).long())
    loss = base + 2 * keep_rate_penalty(decisions, 0.7)
    expected = json.loads((GOLDENS / "training_A.json").read_text())["losses/dynamicvit"]
    assert loss.item() == pytest.approx(expected["ce_no_teacher"], rel=1e-5)
