"""Rank correlations over pairs of cells, tested by permuting the cells (Mantel, 1967).

Pairs that share a cell are not independent; which accuracy belongs to which cell is what chance
decides. n orders or resamples, P pairs, K similarities.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import permutations
from math import factorial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.aliases import Floats
from analysis.intervals import RESAMPLES, TAIL

Ints = NDArray[np.intp]

FEWEST_PAIRS = 3
"""Fewer points have no correlation worth a name."""
FEWEST_FOR_INTERVAL = 6
"""Pairs; four cells."""
EXACT_UP_TO = 5000
"""Orders: all are counted up to as many, else `DRAWS` are drawn."""
DRAWS = 1999
DECIMALS = 9
"""To which differences of accuracies are told apart: ties are no matter of rounding."""


class Group(NamedTuple):
    """Pairs whose similarities are correlated with each other."""

    first: Ints
    """Place of A among the setting's cells, [P]."""
    second: Ints
    """Place of B, [P]."""
    similarity: Floats
    """[P, K]; NaN where it is not known."""


class Setting(NamedTuple):
    """Cells among which the accuracies are exchanged."""

    names: Sequence[Hashable]
    """What the cells are, ascending; what has the same name in several settings moves together."""
    accuracy: Floats
    """Of each cell."""
    groups: Sequence[Group]


class MantelTest(NamedTuple):
    """What similarities are correlated with, of accuracies of A and of B."""

    words: str
    of: Callable[[Floats, Floats], Floats]


SIGNED = MantelTest("A - B", lambda a, b: a - b)
SIZE = MantelTest("abs(A - B)", lambda a, b: np.abs(a - b))
OUTCOMES = (SIGNED, SIZE)


class Tested(NamedTuple):
    """Mean coefficients of all groups, with what chance can do, each field [K]."""

    coefficient: Floats
    """In [-1, 1], NaN where no group has one."""
    p: Floats
    """Two-sided."""
    low: Floats
    """Ends of the 95 % interval over resampled cells, NaN below `FEWEST_FOR_INTERVAL` pairs."""
    high: Floats


def test(settings: Sequence[Setting], outcome: MantelTest) -> dict[str, Tested]:
    """Test the mean coefficients over the groups of all settings, by coefficient."""
    observed = _mean_coefficients(settings, outcome, _identity)
    keys, is_exact = _orders(len(_names(settings)))
    shuffled = _mean_coefficients(settings, outcome, _Shuffle(_places(settings), keys).of)
    pairs = sum(len(group.first) for setting in settings for group in setting.groups)
    found = {}
    for name in COEFFICIENTS:
        coefficient, null = observed[name][0], np.nan_to_num(shuffled[name])
        tails = [((null - coefficient) * side >= -1e-9).sum(axis=0) for side in (-1, 1)]
        # Doubled, because orders and their reverses are not mirror images of each other.
        beyond = np.minimum(*tails) + (not is_exact)
        p = np.minimum(2 * beyond / (len(null) + (not is_exact)), 1.0)
        ends = _interval(settings, outcome, name, pairs)
        found[name] = Tested(coefficient, np.where(np.isnan(coefficient), np.nan, p), *ends)
    return found


def coefficients(x: Floats, y: Floats) -> dict[str, Floats]:
    """Correlate similarities [P, K] with rows of outcomes [n, P]; return [n, K] by coefficient.

    NaN where a similarity or an outcome is constant or has fewer than `FEWEST_PAIRS` values;
    pairs without a similarity do not count.
    """
    found = {name: np.full((len(y), x.shape[1]), np.nan) for name in COEFFICIENTS}
    known = ~np.isnan(x)
    for pattern in np.unique(known, axis=1).T:
        if pattern.sum() < FEWEST_PAIRS:
            continue
        columns = np.flatnonzero((known == pattern[:, None]).all(axis=0))
        for name, correlate in COEFFICIENTS.items():
            found[name][:, columns] = correlate(x[pattern][:, columns], y[:, pattern])
    return found


def _spearman(x: Floats, y: Floats) -> Floats:
    middle = (len(x) + 1) / 2
    of_x, of_y = stats.rankdata(x, axis=0) - middle, stats.rankdata(y, axis=1) - middle
    spread = np.outer(np.square(of_y).sum(axis=1), np.square(of_x).sum(axis=0))
    return _divided(of_y @ of_x, spread)


def _kendall(x: Floats, y: Floats) -> Floats:
    one, other = np.triu_indices(len(x), 1)
    of_x, of_y = np.sign(x[one] - x[other]), np.sign(y[:, one] - y[:, other])
    spread = np.outer(np.abs(of_y).sum(axis=1), np.abs(of_x).sum(axis=0))
    return _divided(of_y @ of_x, spread)


COEFFICIENTS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "spearman": _spearman,
    "kendall": _kendall,
}


def _divided(covariance: Floats, spread: Floats) -> Floats:
    found = np.full(covariance.shape, np.nan)
    np.divide(covariance, np.sqrt(spread), out=found, where=spread > 0)
    return np.clip(found, -1.0, 1.0)


def _identity(setting: Setting) -> Floats:
    observed: Floats = setting.accuracy[None]
    return observed


class _Shuffle(NamedTuple):
    """Exchanges accuracies in all settings alike."""

    places: Mapping[Hashable, int]
    keys: Floats
    """[n, names]: the order of these is the order of the accuracies."""

    def of(self, setting: Setting) -> Floats:
        """Return the accuracies in every order, [n, cells]."""
        mine = [self.places[name] for name in setting.names]
        shuffled: Floats = setting.accuracy[np.argsort(self.keys[:, mine], axis=1)]
        return shuffled


def _mean_coefficients(
    settings: Sequence[Setting], outcome: MantelTest, order: Callable[[Setting], Floats]
) -> dict[str, Floats]:
    """Return the mean over groups, [n, K], with accuracies [n, cells] in some orders."""
    sums: dict[str, Floats] = {}
    counts: dict[str, Floats] = {}
    for setting in settings:
        accuracy = order(setting)
        for group in setting.groups:
            y = outcome.of(accuracy[:, group.first], accuracy[:, group.second]).round(DECIMALS)
            for name, found in coefficients(group.similarity, y).items():
                sums[name] = sums.get(name, 0.0) + np.nan_to_num(found)
                counts[name] = counts.get(name, 0.0) + ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        return {name: sums[name] / counts[name] for name in sums}


def _names(settings: Sequence[Setting]) -> list[Hashable]:
    return list(dict.fromkeys(name for setting in settings for name in setting.names))


def _places(settings: Sequence[Setting]) -> dict[Hashable, int]:
    return {name: place for place, name in enumerate(_names(settings))}


def _orders(names: int) -> tuple[Floats, bool]:
    """Return orders of some names as keys [n, names], and whether that is all there are."""
    if names < 8 and factorial(names) <= EXACT_UP_TO:
        return np.array(list(permutations(range(names))), dtype=np.float64), True
    return np.random.default_rng(names).random((DRAWS, names)), False


def _interval(
    settings: Sequence[Setting], outcome: MantelTest, name: str, pairs: int
) -> tuple[Floats, Floats]:
    """Return the percentile interval over resampled cells: a pair counts as often as both."""
    wide = settings[0].groups[0].similarity.shape[1]
    if pairs < FEWEST_FOR_INTERVAL:
        return np.full(wide, np.nan), np.full(wide, np.nan)
    places = _places(settings)
    random = np.random.default_rng(len(places))
    drawn = random.multinomial(len(places), np.full(len(places), 1 / len(places)), size=RESAMPLES)
    sums, counts = np.zeros((RESAMPLES, wide)), np.zeros((RESAMPLES, wide))
    for setting in settings:
        mine = drawn[:, [places[cell] for cell in setting.names]].astype(np.float64)
        for group in setting.groups:
            y = outcome.of(setting.accuracy[group.first], setting.accuracy[group.second])
            weights = mine[:, group.first] * mine[:, group.second]
            # An anchor counts as often as it is drawn, and each of its pairs as its partner is.
            own = mine[:, group.first[0]] if (group.first == group.first[0]).all() else 1.0
            found = _weighted(group.similarity, y.round(DECIMALS), weights, name)
            known = ~np.isnan(found)
            sums += np.nan_to_num(found) * np.reshape(own, (-1, 1))
            counts += known * np.reshape(own, (-1, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts
    ends = [np.nanquantile(column, [TAIL, 1 - TAIL]) if np.isfinite(column).any()
            else (np.nan, np.nan) for column in means.T]  # fmt: skip
    low, high = np.array(ends).T
    return low, high


def _weighted(x: Floats, y: Floats, weights: Floats, name: str) -> Floats:
    """Return the coefficients of pairs that count several times, [resamples, K]."""
    found = np.full((len(weights), x.shape[1]), np.nan)
    for column in range(x.shape[1]):
        known = ~np.isnan(x[:, column])
        if known.sum() >= FEWEST_PAIRS:
            found[:, column] = WEIGHTED[name](x[known, column], y[known], weights[:, known])
    return found


def _weighted_spearman(x: Floats, y: Floats, counts: Floats) -> Floats:
    total = counts.sum(axis=1)
    a, b = (_ranks(values, counts) - (total[:, None] + 1) / 2 for values in (x, y))
    spread = (counts * a**2).sum(axis=1) * (counts * b**2).sum(axis=1)
    return _divided((counts * a * b).sum(axis=1), spread)


def _ranks(values: Floats, counts: Floats) -> Floats:
    """Return the rank of every value within every resample; those not drawn do not matter."""
    smaller = (values[:, None] < values[None]).astype(np.float64)
    equal = (values[:, None] == values[None]).astype(np.float64)
    return counts @ smaller + (counts @ equal + 1) / 2


def _weighted_kendall(x: Floats, y: Floats, counts: Floats) -> Floats:
    of_x, of_y = (np.sign(values[:, None] - values[None]) for values in (x, y))

    def summed(pairs: Floats) -> Floats:
        return (counts @ pairs * counts).sum(axis=1)

    return _divided(summed(of_x * of_y), summed(of_x**2) * summed(of_y**2))


WEIGHTED: Mapping[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "spearman": _weighted_spearman,
    "kendall": _weighted_kendall,
}
