"""Means over seeds: how far other images of the kind, and other trainings, could move them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from analysis.aliases import Floats
from analysis.answers import Answers, check_same_images, unit_sums
from analysis.intervals import CONFIDENCE

SMALLEST_P = 1e-300


class Uncertainty(NamedTuple):
    """Variance of a mean over S seeds and n units, in squared percent, by where it comes from."""

    seeds: float
    """Of other seeds: variance of the seeds' values over S."""
    images: float
    """Of other images, without what differs between seeds of one image: that is in `seeds`."""
    of_seeds: int
    """Degrees of freedom, S - 1."""
    of_images: int
    """Degrees of freedom, n - 1."""

    @property
    def error(self) -> float:
        """Standard error, in percent."""
        return float(np.sqrt(self.seeds + self.images))

    def quantile(self, alpha: float) -> float:
        """Return the standard errors that are exceeded at a level by chance, on both sides.

        Student's quantiles of both sources, weighted by their variances (Cochran and Cox, 1950):
        with two seeds and little training noise t with one degree of freedom alone would be
        several times too wide.
        """
        of_seeds, of_images = (-float(stdtrit(df, alpha / 2)) for df in self[2:])
        if not self.error:
            return of_images
        return (self.seeds * of_seeds + self.images * of_images) / self.error**2

    def p(self, difference: float) -> float:
        """Return the two-sided p value of a mean that is expected to be 0."""
        if not difference:
            return 1.0
        if not self.error or abs(difference) > self.quantile(SMALLEST_P) * self.error:
            return 0.0

        def excess(log_p: float) -> float:
            return self.quantile(float(np.exp(log_p))) * self.error - abs(difference)

        return float(np.exp(brentq(excess, np.log(SMALLEST_P), 0.0)))


def uncertainty(a: Sequence[Answers], b: Sequence[Answers] = ()) -> Uncertainty:
    """Return that of the mean over seeds of A, less that of B on the same images.

    Args:
        a: Answers of two or more seeds.
        b: Answers of the same seeds, or none.
    """
    each = values(a, b)
    variance, within, units = (_of_scores if a[0].right is None else _of_shares)(a, b)
    seeds = each.var(ddof=1) / len(each)
    # Where all seeds happen to agree, images are all there is to go by.
    images = max(variance - within, 0.0) or (0.0 if seeds else variance)
    return Uncertainty(float(seeds), float(images), len(each) - 1, max(units - 1, 1))


def values(a: Sequence[Answers], b: Sequence[Answers] = ()) -> Floats:
    """Return the accuracy of each seed of A, less that of B, in percent."""
    of_a, of_b = (np.array([cell.accuracy for cell in side]) for side in (a, b))
    return of_a - of_b if b else of_a


def mean_interval(cells: Sequence[Answers]) -> tuple[float, float]:
    """Return the 95 % interval of the mean accuracy over seeds, in percent; of one, its own."""
    if len(cells) == 1:
        return cells[0].interval
    check_same_images(cells)
    return interval_around(float(values(cells).mean()), uncertainty(cells))


def interval_around(mean: float, of: Uncertainty) -> tuple[float, float]:
    """Return the 95 % interval of a mean over seeds."""
    half = of.quantile(1 - CONFIDENCE) * of.error
    return mean - half, mean + half


def _of_shares(a: Sequence[Answers], b: Sequence[Answers]) -> tuple[float, float, int]:
    """Return the variance over images of the mean, the seeds' share of it, and the units."""
    sums, sizes = unit_sums([*a, *b])
    each = sums[: len(a)] - (sums[len(a) :] if b else 0.0)
    images, units = sizes.sum(), len(sizes)
    residuals = each - each.sum(axis=1, keepdims=True) / images * sizes
    scale = 1e4 * units / max(units - 1, 1) / images**2
    mean = residuals.mean(axis=0)
    return scale * np.square(mean).sum(), _within(scale * np.square(residuals - mean)), units


def _of_scores(a: Sequence[Answers], b: Sequence[Answers]) -> tuple[float, float, int]:
    """Return the same of several labels, whose resamples stand for other images."""
    of_a, of_b = (np.array([cell.draws for cell in side]) for side in (a, b))
    each = of_a - of_b if b else of_a
    mean = each.mean(axis=0)
    apart = each - mean
    scattered = np.square(apart - apart.mean(axis=1, keepdims=True)) / (each.shape[1] - 1)
    return mean.var(ddof=1), _within(scattered), len(np.unique(a[0].unit))


def _within(squares: Floats) -> float:
    """Return the variance of a mean by what differs between seeds on the same image, [S, ...]."""
    seeds = len(squares)
    return float(squares.sum() / ((seeds - 1) * seeds))
