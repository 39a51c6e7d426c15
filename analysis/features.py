"""Similarity of two sets of features of the same images: CCA, linear CKA and Procrustes.

Features are [M, C]: M images, C features; the two sets may differ in C. All metrics follow from
`Moments`, which are gathered chunk by chunk in float64: no number of images needs more memory
than a chunk of them.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

METRICS = ("pwcca", "mean_cca", "mean_squared_cca", "cka", "procrustes")
"""The functions of this module that measure how alike two sets are."""

CHUNK = 4096
"""Images at a time: 25 MB for 768 features."""


class Moments(NamedTuple):
    """Products of two sets of features, each centred over the images and of Frobenius norm 1."""

    images: int
    aa: Floats
    """`A^T A`, [C_A, C_A], of trace 1."""
    bb: Floats
    """`B^T B`, [C_B, C_B], of trace 1."""
    ab: Floats
    """`A^T B`, [C_A, C_B]."""


class CanonicalCorrelations(NamedTuple):
    """Canonical correlations of A and B, and how much of each set every one accounts for."""

    rho: Floats
    """Correlations, descending, [min(C_A, C_B)] in [0, 1]; 0 for directions without variance."""
    weights_a: Floats
    """Projection weights from A, [min(C_A, C_B)]; their sum is at most 1."""
    weights_b: Floats
    """Projection weights from B, likewise."""


def moments(a: np.ndarray, b: np.ndarray) -> Moments:
    """Gather the moments of features [M, C_A] and [M, C_B] of the same images.

    Raises:
        ValueError: As `moments_of_chunks`.
    """
    return moments_of_chunks(_chunks(a, b))


def moments_of_chunks(chunks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Moments:
    """Gather moments from chunks of images, in one pass and in any order.

    Each chunk is centred by itself and then joined to those before it (Chan et al., 1983), which
    is as exact as centring all at once.

    Args:
        chunks: Features of some images in both sets, [m, C_A] and [m, C_B], m > 0.

    Raises:
        ValueError: A value is not finite, or the features of a set are the same for every image.
    """
    sums = reduce(_joined, (_sums(a, b) for a, b in chunks))
    varies, width = sums.low < sums.high, sums.width
    if not (varies[:width].any() and varies[width:].any()):
        raise ValueError("features are the same for every image, but must vary")
    aa, bb = sums.products[:width, :width], sums.products[width:, width:]
    norm_a, norm_b = np.sqrt(np.trace(aa)), np.sqrt(np.trace(bb))
    ab = sums.products[:width, width:] / (norm_a * norm_b)
    return Moments(sums.images, aa / norm_a**2, bb / norm_b**2, ab)


class _Sums(NamedTuple):
    """What a chunk of images says about both sets side by side, C = C_A + C_B."""

    images: int
    width: int
    """C_A."""
    mean: Floats
    products: Floats
    """Of the centred features, [C, C]."""
    low: Floats
    high: Floats


def _sums(a: np.ndarray, b: np.ndarray) -> _Sums:
    both = np.concatenate([a, b], axis=1, dtype=np.float64)
    if not np.isfinite(both).all():
        raise ValueError("features hold values that are not finite, but must be numbers")
    low, high, mean = both.min(axis=0), both.max(axis=0), both.mean(axis=0)
    both -= mean
    return _Sums(len(both), a.shape[1], mean, both.T @ both, low, high)


def _joined(one: _Sums, other: _Sums) -> _Sums:
    images = one.images + other.images
    apart = other.mean - one.mean
    between = np.outer(apart, apart) * (one.images * other.images / images)
    return _Sums(
        images,
        one.width,
        one.mean + apart * (other.images / images),
        one.products + other.products + between,
        np.minimum(one.low, other.low),
        np.maximum(one.high, other.high),
    )


def _chunks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(a), CHUNK):
        yield a[start : start + CHUNK], b[start : start + CHUNK]


def canonical_correlations(of: Moments) -> CanonicalCorrelations:
    """Canonical correlation analysis.

    The weights are those of Morcos et al. (2018): the summed absolute projections of the
    features on each canonical vector. They are normalised over all C directions of their set,
    also those beyond min(C_A, C_B), as the published study did.

    Raises:
        ValueError: There are not more images than features.
    """
    images, most = of.images, max(of.ab.shape)
    if images <= most:
        raise ValueError(f"CCA was given {images} images, but must have more than {most} features")
    root_a, whiten_a = _roots(of.aa, images)
    root_b, whiten_b = _roots(of.bb, images)
    left, rho, right = np.linalg.svd(whiten_a @ of.ab @ whiten_b)
    return CanonicalCorrelations(
        rho=np.clip(rho, 0.0, 1.0),
        weights_a=_weights(left.T @ root_a, len(rho)),
        weights_b=_weights(right @ root_b, len(rho)),
    )


def pwcca(rho: Floats, weights: Floats) -> float:
    """Projection-weighted CCA distance, `1 - sum(w * rho)`, in [0, 1].

    With `weights_a` it is the distance from A, with `weights_b` that from B; they differ.
    """
    return 1.0 - float(weights @ rho)


def mean_cca(rho: Floats) -> float:
    """Mean canonical correlation, in [0, 1]; a direction without variance counts as 0."""
    return float(rho.mean())


def mean_squared_cca(rho: Floats) -> float:
    """Mean squared canonical correlation, in [0, 1]."""
    return float(np.square(rho).mean())


def cka(of: Moments) -> float:
    """Linear CKA distance (Kornblith et al., 2019).

    `1 - ||A^T B||_F^2 / (||A^T A||_F ||B^T B||_F)`, in [0, 1], 0 for equal up to rotation.
    """
    norm = np.linalg.norm
    return float(1.0 - norm(of.ab) ** 2 / (norm(of.aa) * norm(of.bb)))


def procrustes(of: Moments) -> float:
    """Orthogonal Procrustes distance (Ding et al., 2021).

    `||A||_F^2 + ||B||_F^2 - 2 ||A^T B||_*`, in [0, 2], 0 for equal up to rotation.
    """
    return float(2.0 - 2.0 * np.linalg.norm(of.ab, ord="nuc"))


def _roots(covariance: Floats, images: int) -> tuple[Floats, Floats]:
    """Symmetric square root of a covariance [C, C], and its inverse on what has variance."""
    values, vectors = np.linalg.eigh(covariance)
    # Below this a direction is the rounding of its neighbours; whitening would blow up noise.
    smallest = values[-1] * max(images, len(values)) * np.finfo(np.float64).eps
    live = values > smallest
    roots = np.sqrt(np.where(live, values, 0.0))
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=live)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T


def _weights(projections: Floats, count: int) -> Floats:
    """Share of every canonical direction, from the projections of the features [C, C]."""
    totals = np.abs(projections).sum(axis=1)
    return (totals / totals.sum())[:count]
