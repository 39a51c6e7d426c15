"""Statistics of a study: adjusted p values, average ranks and their tests, Pareto fronts."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.aliases import Floats

CONFIDENCE = 0.95


def benjamini_hochberg(p: np.ndarray) -> Floats:
    """Return the q values of p values [n] (Benjamini and Hochberg, 1995).

    Rejecting where q is at most 0.05 keeps the expected share of false discoveries below 5 %.
    NaN stays NaN and does not count.
    """
    q = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return q


def holm(p: np.ndarray) -> Floats:
    """Return the p values [n] adjusted by Holm (1979): their family's errors stay below 5 %."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)


def average_ranks(scores: np.ndarray) -> Floats:
    """Return each method's rank, averaged over blocks; 1 is the best, ties share their mean rank.

    Args:
        scores: [blocks, methods], the higher the better, without NaN.

    Returns:
        [methods], in [1, methods].
    """
    return stats.rankdata(-scores, axis=1).mean(axis=0)


class Friedman(NamedTuple):
    """The test that all methods rank alike (Friedman, 1937)."""

    statistic: float
    """Chi-squared with one degree of freedom less than there are methods."""
    p: float


def friedman(scores: np.ndarray) -> Friedman:
    """Test whether some method ranks differently over blocks [blocks, methods]; NaN if undefined.

    It takes three methods, two blocks, and a block in which not all are equal.
    """
    blocks, methods = scores.shape
    if methods < 3 or blocks < 2 or not np.ptp(scores, axis=1).any():
        return Friedman(np.nan, np.nan)
    found = stats.friedmanchisquare(*scores.T)
    return Friedman(float(found.statistic), float(found.pvalue))


@cache  # The studentised range takes a good part of a second.
def nemenyi_critical_difference(blocks: int, methods: int) -> float:
    """Return by how much average ranks must differ to be told apart at 5 % (Nemenyi, 1963).

    `q sqrt(k (k + 1) / 6 N)` for k methods over N blocks, as in Demsar (2006, equation 4).
    """
    # The studentised range for a known variance, which Demsar divides by the root of two.
    q = stats.studentized_range.ppf(CONFIDENCE, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def pareto_front(cost: np.ndarray, score: np.ndarray) -> NDArray[np.bool_]:
    """Tell which of n points no other point beats: none costs as little and scores as much.

    Args:
        cost: [n], the lower the better.
        score: [n], the higher the better. A point with a NaN is never on the front.

    Returns:
        [n]; of equal points all are on the front or none.
    """
    cheaper = cost[:, None] <= cost[None]
    better = score[:, None] >= score[None]
    strictly = (cost[:, None] < cost[None]) | (score[:, None] > score[None])
    beaten = (cheaper & better & strictly).any(axis=0)
    return ~beaten & ~np.isnan(cost) & ~np.isnan(score)
