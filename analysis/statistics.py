"""Rank statistics of a study: correlations with intervals, average ranks, tests, Pareto fronts."""

from functools import cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

FEWEST_PAIRS = 3
"""Fewer points have no correlation worth a name."""
EXACT_UP_TO = 7
"""Values whose p value counts all orders; the usual approximation finds 0 for three in a row."""
CONFIDENCE = 0.95
RESAMPLES = 1000
"""Draws of a bootstrap; an interval's ends move by about 1 % of its width between seeds."""


class Correlation(NamedTuple):
    """A rank correlation with its p value and its bootstrap interval."""

    coefficient: float
    """In [-1, 1]."""
    p: float
    """Two-sided, of no correlation, in [0, 1]; exact up to `EXACT_UP_TO` values."""
    low: float
    high: float
    """Ends of the 95 % percentile interval over resampled pairs of values."""
    note: str | None = None
    """Why the numbers are NaN, or None."""


NAMES = ("x", "y")
"""What a note calls the two rows."""


def spearman(x: np.ndarray, y: np.ndarray, names: tuple[str, str] = NAMES) -> Correlation:
    """Spearman's rho of two rows of n values; ties share their mean rank.

    Fewer than `FEWEST_PAIRS` values or a constant row give NaN and a note.
    """
    if note := _undefined(x, y, names):
        return _nothing(note)
    found = stats.spearmanr(x, y)
    a, b = (stats.rankdata(values) - (len(x) + 1) / 2 for values in (x, y))
    p = float(found.pvalue)
    if len(x) <= EXACT_UP_TO:
        p = _exact_p(b[_orders(len(x))] @ a, float(a @ b))
    interval = _interval(_spearman_of_resamples(x, y, _resamples(len(x))))
    return Correlation(float(found.statistic), p, *interval)


def kendall(x: np.ndarray, y: np.ndarray, names: tuple[str, str] = NAMES) -> Correlation:
    """Kendall's tau-b of two rows of n values.

    Fewer than `FEWEST_PAIRS` values or a constant row give NaN and a note.
    """
    if note := _undefined(x, y, names):
        return _nothing(note)
    found = stats.kendalltau(x, y)
    a, b = (np.sign(values[:, None] - values[None]) for values in (x, y))
    p = float(found.pvalue)
    if len(x) <= EXACT_UP_TO:
        orders = _orders(len(x))
        shuffled = b[orders[:, :, None], orders[:, None, :]]
        p = _exact_p(np.tensordot(shuffled, a), float((a * b).sum()))
    interval = _interval(_kendall_of_resamples(x, y, _resamples(len(x))))
    return Correlation(float(found.statistic), p, *interval)


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


def _undefined(x: np.ndarray, y: np.ndarray, names: tuple[str, str]) -> str | None:
    if len(x) < FEWEST_PAIRS:
        return f"{len(x)} pairs, but at least {FEWEST_PAIRS} are needed"
    if np.isnan(x).any() or np.isnan(y).any():
        return "a value is missing"
    constant = [name for name, row in zip(names, (x, y), strict=True) if np.ptp(row) == 0]
    return f"{' and '.join(constant)} constant" if constant else None


def _nothing(note: str) -> Correlation:
    return Correlation(np.nan, np.nan, np.nan, np.nan, note)


def _exact_p(shuffled: Floats, observed: float) -> float:
    """Return the share of all orders that correlate at least as strongly as was observed."""
    # The statistics are sums of a few small numbers, equal but for rounding where they tie.
    return float((np.abs(shuffled) >= abs(observed) - 1e-9).mean())


@cache
def _orders(n: int) -> NDArray[np.int64]:
    """Return all orders of n values, [n!, n]."""
    return np.array(list(permutations(range(n))))


@cache
def _resamples(n: int) -> Floats:
    """Return how often each of n pairs is drawn in every resample, [resamples, n].

    The same for every n, so that tables repeat exactly.
    """
    draws = np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return draws.astype(np.float64)


def _spearman_of_resamples(x: np.ndarray, y: np.ndarray, counts: Floats) -> Floats:
    """Return rho of every resample, NaN where all that was drawn is alike."""
    middle = (len(x) + 1) / 2
    a, b = (_ranks_in_resamples(values, counts) - middle for values in (x, y))
    covariance = (counts * a * b).sum(axis=1)
    spread = np.sqrt((counts * a**2).sum(axis=1) * (counts * b**2).sum(axis=1))
    return _divided(covariance, spread)


def _ranks_in_resamples(values: np.ndarray, counts: Floats) -> Floats:
    """Return the rank of every value within every resample; those not drawn do not matter."""
    smaller = (values[:, None] < values[None]).astype(np.float64)
    equal = (values[:, None] == values[None]).astype(np.float64)
    return counts @ smaller + (counts @ equal + 1) / 2


def _kendall_of_resamples(x: np.ndarray, y: np.ndarray, counts: Floats) -> Floats:
    """Return tau-b of every resample, NaN where all that was drawn is alike."""
    signs_x, signs_y = (np.sign(values[:, None] - values[None]) for values in (x, y))

    def summed(pairs: Floats) -> Floats:
        return (counts @ pairs * counts).sum(axis=1)

    spread = np.sqrt(summed(signs_x**2) * summed(signs_y**2))
    return _divided(summed(signs_x * signs_y), spread)


def _interval(estimates: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    known = estimates[~np.isnan(estimates)]
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    result = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return np.clip(result, -1.0, 1.0)
