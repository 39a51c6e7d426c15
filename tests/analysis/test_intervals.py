"""Intervals and tests against scipy, scikit-learn, formulas and loops."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from analysis import intervals
from analysis.intervals import (
    Paired,
    bootstrap_p,
    clustered_wilson,
    mcnemar_mid_p,
    paired_interval,
    percentile_interval,
    resampled_map,
    resamples,
    sign_test,
    wilson,
)


@pytest.mark.parametrize(("right", "images"), [(0, 10), (359, 360), (7, 20), (50_000, 50_000)])
def test_the_interval_of_a_share_is_scipys(right, images):
    expected = stats.binomtest(right, images).proportion_ci(method="wilson")
    assert tuple(wilson(np.array(right), np.array(images))) == pytest.approx(tuple(expected))


def agresti_min(b, c, n):
    """The interval in the words of the paper, of the two discordant shares after adding halves."""
    first, second = (b + 0.5) / (n + 2), (c + 0.5) / (n + 2)
    variance = (first + second - (first - second) ** 2) / (n + 2)
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    return first - second - half, first - second + half


def test_the_interval_of_a_difference_of_images_is_that_of_agresti_and_min():
    b, c, n = np.array([0, 3, 40, 12]), np.array([0, 1, 2, 12]), 100
    paired = Paired(b - c, b + c, b - c, b + c)
    found = paired_interval(paired, np.ones(n))
    expected = [agresti_min(*counts, n) for counts in zip(b, c, strict=True)]
    assert np.stack(found, axis=1) == pytest.approx(np.array(expected))


def test_the_interval_of_units_has_the_variance_of_their_sums():
    random = np.random.default_rng(0)
    sizes = random.integers(1, 9, size=2000).astype(float)
    sums = np.stack([random.binomial(sizes.astype(int), share) for share in (0.8, 0.5)])
    of_units = sums[0] - sums[1]
    paired = Paired(
        *(np.array([x]) for x in (of_units.sum(), of_units @ of_units, of_units @ sizes, 9000.0))
    )
    found = paired_interval(paired, sizes)
    share = of_units.sum() / sizes.sum()
    error = np.sqrt(np.square(of_units - share * sizes).sum()) / sizes.sum()
    expected = share + stats.t.ppf(0.975, 1999) * error * np.array([-1, 1])
    # The added half units weigh a tenth of a percent.
    assert np.concatenate(found) == pytest.approx(expected, abs=2e-3 * share)


def test_units_of_one_image_are_images():
    right = np.random.default_rng(1).integers(2, size=50)
    # But for Student's t, which is 2.5 % more for 50.
    expected = wilson(right.sum() / 1.05, np.array(50 / 1.05))
    assert tuple(clustered_wilson(right, np.ones(50))) == pytest.approx(tuple(expected), rel=0.02)


def test_images_that_always_agree_count_once():
    right = np.random.default_rng(1).integers(2, size=50)
    found = clustered_wilson(right * 7, np.full(50, 7.0))
    expected = wilson(right.sum() / 1.05, np.array(50 / 1.05))
    assert tuple(found) == pytest.approx(tuple(expected), rel=0.02)


def test_units_whose_images_all_differ_alike_are_images():
    b, c, n = np.array([0, 4]), np.array([0, 1]), 60
    size = 7.0
    of_units = Paired((b - c) * size, (b + c) * size**2, (b - c) * size**2, (b + c) * size)
    found = paired_interval(of_units, np.full(n, size))
    expected = paired_interval(Paired(b - c, b + c, b - c, b + c), np.ones(n))
    wider = stats.t.isf(0.025, n - 1) / stats.norm.isf(0.025)
    widths, images = (of.high - of.low for of in (found, expected))
    assert widths == pytest.approx(wider * images)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (2, 0), (9, 3), (5, 5), (120, 90)])
def test_mid_p_counts_half_of_what_was_observed(b, c):
    probability = stats.binom(b + c, 0.5).pmf(np.arange(b + c + 1))
    extreme = min(b, c)
    expected = min(1, 2 * (probability[:extreme].sum() + probability[extreme] / 2))
    assert mcnemar_mid_p(np.array(b), np.array(c)) == pytest.approx(expected)


def test_random_signs_approach_all_signs():
    sums = np.array([[3, 0, 1, 2, 2, 1, 3, 0], [1, 0, 2, 0, 1, 0, 1, 1]], dtype=float)
    difference = sums[0] - sums[1]
    every = np.array(list(product((-1, 1), repeat=8))) @ difference
    exact = (np.abs(every) >= abs(difference.sum()) - 1e-9).mean()
    found = sign_test(sums, np.array([0]), np.array([1]))
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / intervals.SIGN_DRAWS))


def test_bootstrap_p_is_twice_the_smaller_tail():
    differences = np.concatenate([np.full(30, -1.0), np.full(969, 2.0)])
    assert bootstrap_p(differences) == pytest.approx(2 * 31 / 1000)
    assert bootstrap_p(np.zeros(99)) == 1


def test_resampled_precision_is_that_of_a_loop_over_drawn_images():
    random = np.random.default_rng(0)
    scores = random.normal(size=(90, 4)).round(1)  # With ties.
    shown = scores + 2 * random.normal(size=scores.shape) > 2.5
    unit = np.arange(90) // 2
    estimate, drawn = resampled_map(scores, shown, unit)
    assert estimate == pytest.approx(_mean_precision(scores, shown, np.ones(90, int)))
    looped = [_mean_precision(scores, shown, counts[unit]) for counts in resamples(45).T[:25]]
    assert np.diff(drawn[:25]) == pytest.approx(np.diff(looped), abs=1e-3)


def test_resamples_lie_as_far_below_as_few_images_make_precision_too_high():
    random = np.random.default_rng(0)
    scores, shown = random.normal(size=(60, 1)), random.random((60, 1)) < 0.2
    estimate, drawn = resampled_map(scores, shown, np.arange(60))
    # Precision at each positive, images of no equal scores counting as often as they are drawn.
    order = np.argsort(-scores[:, 0])
    counts = resamples(60)[order].astype(float)
    hits = counts * shown[order]
    precision = np.divide(
        hits.cumsum(0), counts.cumsum(0), where=hits > 0, out=np.zeros((60, 1000))
    )
    bias = 100 * np.mean((hits * precision).sum(0) / hits.sum(0)) - estimate
    assert bias > 1
    assert drawn.mean() == pytest.approx(estimate - bias)
    low, high = percentile_interval(drawn)
    assert low < estimate < high


def _mean_precision(scores, shown, counts):
    rows = np.repeat(np.arange(len(scores)), counts)
    of_classes = [
        average_precision_score(shown[rows, c], scores[rows, c])
        for c in range(scores.shape[1])
        if shown[rows, c].any()
    ]
    return 100 * np.mean(of_classes)


def test_a_class_that_no_image_shows_does_not_count():
    scores = np.random.default_rng(0).normal(size=(30, 2))
    shown = np.stack([scores[:, 0] > 0.5, np.zeros(30, bool)], axis=1)
    assert resampled_map(scores, shown, np.arange(30))[0] == 100


def test_resamples_draw_as_many_units_as_there_are_and_are_the_same_each_time():
    counts = resamples(60)
    assert counts.shape == (60, intervals.RESAMPLES)
    assert (counts.sum(axis=0) == 60).all()
    resamples.cache_clear()
    assert np.array_equal(resamples(60), counts)
