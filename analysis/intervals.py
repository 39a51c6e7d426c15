"""Intervals and tests of accuracies over images, and of their paired differences.

The images are a sample of all images of their kind. What is independent is a unit: an image, or
all images of one source. Shares are in [0, 1], mean average precision in percent.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array

from analysis.aliases import Floats

Ints = NDArray[np.int64]

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
RESAMPLES = 1000
"""Draws of a bootstrap; an interval's ends move by about 1 % of its width between seeds."""
AT_ONCE = 250
"""Resamples held at a time: 60 MB for 60,000 images."""
SIGN_DRAWS = 9999
"""Draws of the signs of units; the smallest p value is 0.0001."""


class Interval(NamedTuple):
    """Ends of 95 % intervals."""

    low: Floats
    high: Floats


def wilson(right: np.ndarray, images: np.ndarray) -> Interval:
    """Return the interval of a share of independent images (Wilson, 1927).

    Args:
        right: Right answers, [...].
        images: Images, [...].
    """
    z = stats.norm.isf(TAIL)
    share = right / images
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z * np.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    half = half / (1 + z**2 / images)
    return Interval(middle - half, middle + half)


def clustered_wilson(right: np.ndarray, sizes: np.ndarray) -> Interval:
    """Return the interval of the share of right images, whose units are independent.

    Wilson's interval of the effective number of images: the variance of the unit sums says how
    many independent images would be as uncertain (Kish, 1965), and Student's t for the number of
    units makes them fewer (Korn and Graubard, 1998).

    Args:
        right: Right answers of each unit, [..., units].
        sizes: Images of each unit, [units].
    """
    images, units = sizes.sum(), len(sizes)
    share = right.sum(axis=-1) / images
    spread = np.square(right - share[..., None] * sizes).sum(axis=-1) / images**2
    variance = spread * units / max(units - 1, 1)
    independent = share * (1 - share) / images
    # Nothing is known of a share of 0 or 1; then every unit counts as one image.
    effect = np.full(np.shape(share), images / units)
    np.divide(variance, independent, out=effect, where=independent > 0)
    few = stats.norm.isf(TAIL) / stats.t.isf(TAIL, max(units - 1, 1))
    effective = images / np.maximum(effect, 1.0) * few**2
    return wilson(share * effective, effective)


class Paired(NamedTuple):
    """Sums over units of the difference D of right answers of two cells, for any pairs."""

    total: Floats
    """Sum of D, [pairs]."""
    squares: Floats
    """Sum of D squared, [pairs]."""
    with_size: Floats
    """Sum of D times the images of the unit, [pairs]."""
    discordant: Floats
    """Images that only one of the cells gets right, [pairs]."""


def paired_interval(of: Paired, sizes: np.ndarray) -> Interval:
    """Return the intervals of differences of shares, paired by unit.

    Where a unit is an image this is the interval of Agresti and Min (2005): half an observation
    is added to each of the four counts. Else half a unit is, of as many images as the discordant
    ones of a unit count for, and the variance is that of the unit sums, with Student's t for the
    number of units.

    Args:
        of: Sums over units.
        sizes: Images of each unit, [units].
    """
    images, units = sizes.sum(), len(sizes)
    # Of 1 where images of a unit differ independently, to its size where all differ alike.
    added = np.full(np.shape(of.total), images / units)
    np.divide(of.squares, of.discordant, out=added, where=of.discordant > 0)
    added = np.maximum(added, 1.0)
    padded = images + 2 * added
    estimate = of.total / padded
    residuals = of.squares + added**2 - 2 * estimate * of.with_size
    residuals += estimate**2 * (np.square(sizes).sum() + 2 * added**2)
    z = stats.norm.isf(TAIL) if units == images else stats.t.isf(TAIL, max(units - 1, 1))
    half = z * np.sqrt(np.maximum(residuals, 0)) / padded
    return Interval(np.maximum(estimate - half, -1), np.minimum(estimate + half, 1))


def mcnemar_mid_p(b: np.ndarray, c: np.ndarray) -> Floats:
    """Return the two-sided mid-p value of McNemar's test (Lancaster, 1961; Fagerland, 2013).

    Args:
        b: Images that only the first cell gets right, [pairs].
        c: Images that only the second one does, [pairs].
    """
    fewer, discordant = np.minimum(b, c), b + c
    p = 2 * stats.binom.cdf(fewer, discordant, 0.5) - stats.binom.pmf(fewer, discordant, 0.5)
    return np.minimum(p, 1.0)


def sign_test(sums: np.ndarray, first: np.ndarray, second: np.ndarray) -> Floats:
    """Return p values of differences under random signs of the units.

    Args:
        sums: Right answers of each cell in each unit, [cells, units].
        first: Cell A of each pair, [pairs].
        second: Cell B, [pairs].
    """
    random = np.random.default_rng(sums.shape[1])
    observed = np.abs(sums[first].sum(axis=1) - sums[second].sum(axis=1))
    as_far = np.zeros(len(observed))
    for start in range(0, SIGN_DRAWS, AT_ONCE):
        count = min(AT_ONCE, SIGN_DRAWS - start)
        signs = random.choice(np.array([-1.0, 1.0]), size=(count, sums.shape[1]))
        drawn = sums @ signs.T  # Of every cell: the difference of two is that of the pair.
        as_far += (np.abs(drawn[first] - drawn[second]) >= observed[:, None] - 1e-9).sum(axis=1)
    return (as_far + 1) / (SIGN_DRAWS + 1)


def percentile_interval(resampled: np.ndarray) -> Interval:
    """Return the percentile interval of resampled values [..., resamples]."""
    low, high = np.quantile(resampled, [TAIL, 1 - TAIL], axis=-1)
    return Interval(low, high)


def bootstrap_p(differences: np.ndarray) -> Floats:
    """Return two-sided p values: the share (k + 1) / (R + 1) of resamples beyond 0, doubled.

    Args:
        differences: Of every resample, [..., resamples].
    """
    below, above = (differences <= 0).sum(axis=-1), (differences >= 0).sum(axis=-1)
    beyond = np.minimum(below, above)
    return np.minimum(2 * (beyond + 1) / (differences.shape[-1] + 1), 1.0)


@lru_cache(maxsize=4)
def resamples(units: int) -> NDArray[np.uint8]:
    """Return how often each unit is drawn in every resample, [units, resamples].

    The same for every call, so that cells of a dataset share them.
    """
    random = np.random.default_rng(units)
    drawn = np.zeros((units, RESAMPLES), dtype=np.uint8)
    for place in range(RESAMPLES):
        drawn[:, place] = np.bincount(random.integers(units, size=units), minlength=units)
    return drawn


def resampled_map(scores: np.ndarray, shown: np.ndarray, unit: Ints) -> tuple[float, Floats]:
    """Return mean average precision, and that of every resample of the units, in percent.

    A resample's mean is over the classes that some drawn image shows. Average precision of few
    images is too high, in the images given by as much as in their resamples over these: so the
    resamples are moved by twice that.

    Args:
        scores: [images, classes], higher meaning more likely.
        shown: Bool [images, classes].
        unit: Unit of each image, [images].
    """
    _, unit = np.unique(unit, return_inverse=True)
    counts = resamples(int(unit.max()) + 1)
    classes = [c for c in range(scores.shape[1]) if shown[:, c].any()]
    ranked = [_Ranked.of(scores[:, c], shown[:, c]) for c in classes]
    once = np.ones((len(unit), 1))
    estimate = _mean_over_classes(ranked, once)[0]
    drawn = [
        _mean_over_classes(ranked, counts[unit, start : start + AT_ONCE].astype(np.float32))
        for start in range(0, RESAMPLES, AT_ONCE)
    ]
    resampled = np.concatenate(drawn)
    return float(estimate), resampled + 2 * (estimate - resampled.mean())


def resampled_mean(values: np.ndarray, unit: Ints) -> Floats:
    """Return the mean of every resample of the units, [resamples].

    Args:
        values: [images].
        unit: Unit of each image, [images].
    """
    mean = float(values.mean())
    _, unit = np.unique(unit, return_inverse=True)
    apart, sizes = np.bincount(unit, values - mean), np.bincount(unit)
    drawn = [counts.T @ np.stack([apart, sizes], axis=1) for counts in _drawn(len(sizes))]
    total, images = np.concatenate(drawn).T
    return mean + total / images


def resampled_quantile(values: np.ndarray, unit: Ints, share: float) -> Floats:
    """Return the quantile of every resample of the units, [resamples].

    That is the least of the values that `share` of the drawn images do not exceed.

    Args:
        values: [images].
        unit: Unit of each image, [images].
        share: In (0, 1).
    """
    order = np.argsort(values, kind="stable")
    _, unit = np.unique(unit, return_inverse=True)
    found = []
    for counts in _drawn(int(unit.max()) + 1):
        images = counts[unit[order]].cumsum(axis=0, dtype=np.float32)
        reached = images >= (share - 1e-7) * images[-1]  # Of whole numbers, rounded.
        found.append(values[order][reached.argmax(axis=0)])
    return np.concatenate(found)


def _drawn(units: int) -> Iterator[NDArray[np.float64]]:
    """Yield `resamples`, some at a time."""
    counts = resamples(units)
    for start in range(0, RESAMPLES, AT_ONCE):
        yield counts[:, start : start + AT_ONCE].astype(np.float64)


class _Ranked(NamedTuple):
    """Images of one class from the likeliest on, cut after each score that a positive has."""

    between: csr_array
    """Images between one cut and the next, [cuts, images]."""
    positives: csr_array
    """The positives among them, [cuts, images]."""

    @classmethod
    def of(cls, scores: np.ndarray, shown: np.ndarray) -> "_Ranked":
        order = np.argsort(-scores, kind="stable")
        ordered, hit = scores[order], shown[order]
        # Images of equal scores are found together.
        last = np.append(ordered[1:] != ordered[:-1], True)
        ends = np.flatnonzero(last)
        ends = ends[np.add.reduceat(hit, np.append(0, ends[:-1] + 1)) > 0] + 1
        return cls(_cuts(order, ends, len(scores)), _cuts(order, ends, len(scores), hit))


def _cuts(order: Ints, ends: Ints, images: int, chosen: np.ndarray | None = None) -> csr_array:
    """Return which images lie before each end and after the one before it, [ends, images]."""
    taken = np.ones(len(order), dtype=np.bool_) if chosen is None else chosen.astype(np.bool_)
    taken = taken & (np.arange(len(order)) < ends[-1])
    starts = np.append(0, np.cumsum(taken)[ends - 1])
    ones = np.ones(int(taken.sum()), dtype=np.float32)
    return csr_array((ones, order[taken], starts), shape=(len(ends), images))


def _mean_over_classes(ranked: list[_Ranked], weights: np.ndarray) -> Floats:
    """Return the mean of the classes' average precision for weights [images, n], in percent."""
    total, classes = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for of_class in ranked:
        found = of_class.positives @ weights
        above = np.cumsum(of_class.between @ weights, axis=0)
        right = np.cumsum(found, axis=0)
        precision = np.divide(right, above, out=np.zeros_like(right), where=above > 0)
        drawn = right[-1]
        average = (found * precision).sum(axis=0)
        total += np.divide(average, drawn, out=np.zeros_like(average), where=drawn > 0)
        classes += drawn > 0
    return 100 * total / np.maximum(classes, 1)
