"""Rank statistics against scipy, naive loops and published tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import statistics
from analysis.statistics import (
    average_ranks,
    benjamini_hochberg,
    friedman,
    kendall,
    nemenyi_critical_difference,
    pareto_front,
    spearman,
)

COEFFICIENTS = {spearman: stats.spearmanr, kendall: stats.kendalltau}


def drawn(n, seed=0, ties=False):
    x, y = np.random.default_rng(seed).normal(size=(2, n))
    return (x.round(), y.round()) if ties else (x, y + x)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("ours", COEFFICIENTS)
def test_coefficients_and_p_values_are_scipys(ours, ties):
    x, y = drawn(12, ties=ties)
    found = ours(x, y)
    expected = COEFFICIENTS[ours](x, y)
    assert (found.coefficient, found.p) == pytest.approx(tuple(expected), abs=1e-12)
    assert found.note is None


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [3, 5, 7])
@pytest.mark.parametrize("ours", COEFFICIENTS)
def test_p_values_of_few_values_count_all_orders(ours, n, ties):
    x, y = drawn(n, seed=4, ties=ties)

    def statistic(shuffled):
        return COEFFICIENTS[ours](shuffled, y).statistic

    exact = stats.permutation_test(
        (x,), statistic, permutation_type="pairings", n_resamples=np.inf, vectorized=False
    )
    # scipy doubles the smaller tail, which for symmetric tails is what lies as far out.
    both = np.mean(np.abs(exact.null_distribution) >= abs(exact.statistic) - 1e-9)
    assert ours(x, y).p == pytest.approx(both, abs=1e-12)


def test_three_in_a_row_prove_nothing():
    assert spearman(np.arange(3.0), np.arange(3.0)).p == pytest.approx(2 / 6)
    assert kendall(np.arange(3.0), np.arange(3.0)).p == pytest.approx(2 / 6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("ours", COEFFICIENTS)
def test_the_interval_is_that_of_a_loop_over_resampled_pairs(ours, ties):
    x, y = drawn(8, seed=1, ties=ties)
    estimates = []
    for counts in statistics._resamples(8).astype(int):
        a, b = np.repeat(x, counts), np.repeat(y, counts)
        if np.ptp(a) and np.ptp(b):
            estimates.append(COEFFICIENTS[ours](a, b).statistic)
    assert len(estimates) > 900
    expected = np.quantile(estimates, [0.025, 0.975])
    assert ours(x, y)[2:4] == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("ours", COEFFICIENTS)
def test_the_interval_holds_the_truth_about_as_often_as_it_says(ours):
    covered = 0
    for seed in range(200):
        x, y = np.random.default_rng(seed).normal(size=(2, 40))
        found = ours(x, y)
        covered += found.low <= 0 <= found.high
    assert 0.88 < covered / 200 < 0.99


@pytest.mark.parametrize("ours", COEFFICIENTS)
@pytest.mark.parametrize(
    ("x", "y", "note"),
    [
        ([1, 2], [1, 2], "2 pairs, but at least 3 are needed"),
        ([], [], "0 pairs, but at least 3 are needed"),
        ([1, 1, 1], [1, 2, 3], "x constant"),
        ([1, 1, 1], [2, 2, 2], "x and y constant"),
        ([1, 2, np.nan], [1, 2, 3], "a value is missing"),
    ],
)
def test_what_is_undefined_is_nan_with_the_reason(ours, x, y, note):
    found = ours(np.array(x, float), np.array(y, float))
    assert np.isnan(found[:4]).all()
    assert found.note == note


def test_q_values_leave_out_what_is_undefined():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    # By hand: the sorted p values times 3 / rank, made monotone from the largest down.
    assert benjamini_hochberg(p) == pytest.approx([0.03, np.nan, 0.04, 0.04], nan_ok=True)
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()
    assert len(benjamini_hochberg(np.array([]))) == 0


@pytest.mark.parametrize(
    ("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (6, 2.850), (10, 3.164)]
)
def test_critical_differences_follow_demsars_table_of_critical_values(methods, q):
    expected = q * np.sqrt(methods * (methods + 1) / (6 * 14))
    assert nemenyi_critical_difference(14, methods) == pytest.approx(expected, rel=5e-4)


SCORES = np.random.default_rng(3).normal(size=(14, 4)).round(1)
"""With ties."""


def test_ranks_are_those_of_a_loop_that_counts_the_better_ones():
    expected = [
        np.mean([(row > row[m]).sum() + ((row == row[m]).sum() + 1) / 2 for row in SCORES])
        for m in range(4)
    ]
    assert average_ranks(SCORES) == pytest.approx(expected, abs=1e-12)


def test_friedman_is_scipys_and_undefined_where_nothing_differs():
    assert friedman(SCORES) == pytest.approx(tuple(stats.friedmanchisquare(*SCORES.T)))
    for scores in (SCORES[:1], SCORES[:, :2], np.ones((4, 3))):
        assert np.isnan(friedman(scores)).all()


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(POINTS)
def test_the_front_is_that_of_a_loop_over_all_pairs(points):
    front = pareto_front(*np.array(points, float).reshape(-1, 2).T)
    expected = [
        not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
        for cost, score in points
    ]
    assert front.tolist() == expected


def test_a_point_without_a_value_is_not_on_the_front():
    front = pareto_front(np.array([1.0, np.nan, 0.5]), np.array([1.0, 9.0, np.nan]))
    assert front.tolist() == [True, False, False]
