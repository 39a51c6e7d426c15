"""Accuracy and mean average precision against reference arrays and naive loops."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.loop.metrics import average_precision, mean_average_precision, top_k_accuracy

REFERENCE = Path(__file__).parents[2] / "data" / "goldens"
"""Arrays made with the published study's own code."""


@pytest.fixture(scope="module")
def published():
    with np.load(REFERENCE / "units_A.npz") as arrays:
        names = ("scores", "targets", "ap_per_class")
        return {name: torch.from_numpy(arrays[f"map/{name}"]) for name in names}


def naive_average_precision(scores, shown):
    ranked = shown[np.argsort(-scores)]
    precision_at_positives = [ranked[: i + 1].mean() for i in range(len(ranked)) if ranked[i]]
    return np.mean(precision_at_positives)


def test_average_precision_is_the_published_one(published):
    ours = average_precision(published["scores"], published["targets"])
    theirs = published["ap_per_class"].numpy()
    shown = published["targets"].numpy().any(axis=0)
    assert list(np.flatnonzero(~shown)) == [3]
    assert np.isnan(ours[3])
    np.testing.assert_allclose(ours[shown], theirs[shown], rtol=0, atol=1e-7)


def test_mean_leaves_out_and_counts_classes_without_a_positive(published):
    percent, without = mean_average_precision(published["scores"], published["targets"])
    values = json.loads((REFERENCE / "units_A.json").read_text())
    assert without == 1
    assert percent == pytest.approx(values["mAP"] * 20 / 19, abs=1e-5)  # theirs counts it as 0

    first = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    part = mean_average_precision(published["scores"][:, first], published["targets"][:, first])
    assert part == (pytest.approx(values["mAP_first10_classes_without_class3"], abs=1e-5), 0)


def test_average_precision_agrees_with_a_naive_loop():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 3))
    shown = rng.random((50, 3)) < 0.3
    naive = [naive_average_precision(scores[:, k], shown[:, k]) for k in range(3)]
    ours = average_precision(torch.from_numpy(scores), torch.from_numpy(shown))
    np.testing.assert_allclose(ours, naive, rtol=1e-12)


@pytest.mark.parametrize("positives", [slice(0, 3), slice(7, 10)])
def test_average_precision_of_equal_scores_does_not_depend_on_the_order(positives):
    targets = torch.zeros(10, 1)
    targets[positives] = 1
    assert average_precision(torch.zeros(10, 1), targets) == pytest.approx([0.3])


def test_mean_average_precision_needs_a_positive():
    with pytest.raises(ValueError, match="targets show no class, but must show at least one"):
        mean_average_precision(torch.rand(4, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_any_float_type(dtype):
    scores = torch.tensor([[0.5], [0.25], [1.0]], dtype=dtype)
    targets = torch.tensor([[1.0], [0.0], [1.0]])
    assert mean_average_precision(scores, targets) == (100.0, 0)


def test_top_k_accuracy_agrees_with_a_naive_count():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 12, generator=generator)
    targets = torch.randint(12, (200,), generator=generator)
    for k in (1, 5):
        hits = [
            int(target) in np.argsort(-row)[:k].tolist()
            for row, target in zip(logits.numpy(), targets, strict=True)
        ]
        assert top_k_accuracy(logits, targets, k) == pytest.approx(100 * np.mean(hits), rel=1e-12)


def test_top_5_of_three_classes_counts_every_image():
    assert top_k_accuracy(torch.rand(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0]), 5) == 100


def test_accuracy_needs_images():
    with pytest.raises(ValueError, match="of 0 images is asked for, but must be of at least 1"):
        top_k_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 1)
