"""Rank statistics against scipy, naive loops and published tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    average_ranks,
    benjamini_hochberg,
    friedman,
    holm,
    nemenyi_critical_difference,
    pareto_front,
)


def test_holm_multiplies_by_what_is_left():
    p = np.array([0.04, 0.01, 0.5, 0.02])
    # By hand: 4 x 0.01, 3 x 0.02, 2 x 0.04, 0.5, each at least the one before.
    assert holm(p) == pytest.approx([0.08, 0.04, 0.5, 0.06])
    assert len(holm(np.array([]))) == 0


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
