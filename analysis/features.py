"""Similarity of two sets of features of the same images: CCA, linear CKA and Procrustes.

Features are [M, C]: M images, C features; the two sets may differ in C. All metrics follow from
`Moments`: those of each set by itself, and those of both. They are gathered chunk by chunk: no
number of images needs more memory than a chunk of them, besides the sets.

What a set says by itself is gathered in float64 and includes its whitened features. Those have
unit variance in every direction, so that what two sets have in common is found from their product
in the precision that the features have, at half the cost: float32 changes no metric by 1e-6.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np

from analysis.aliases import Floats

METRICS = ("pwcca", "mean_cca", "mean_squared_cca", "cka", "procrustes")
"""The functions of this module that measure how alike two sets are."""

CHUNK = 4096
"""Images at a time: 25 MB for 768 features."""


class OwnMoments(NamedTuple):
    """What a set of features says by itself, centred over the images and of Frobenius norm 1."""

    spread: float
    """Frobenius norm of `A^T A`."""
    root: Floats
    """Symmetric square root of `A^T A`, whose trace is 1, [C, C]."""
    whitened: Floats
    """`A root^-1`, 0 in directions without variance, [M, C] of the features' precision."""


class Moments(NamedTuple):
    """Two sets of features of the same images, and what they have in common."""

    a: OwnMoments
    b: OwnMoments
    whitened: Floats
    """`A^T B` of the whitened features, [C_A, C_B]."""
    ab: Floats
    """`A^T B` of the centred features, each set of Frobenius norm 1, [C_A, C_B]."""


class CanonicalCorrelations(NamedTuple):
    """Canonical correlations of A and B, and how much of each set every one accounts for."""

    rho: Floats
    """Correlations, descending, [min(C_A, C_B)] in [0, 1]; 0 for directions without variance."""
    weights_a: Floats
    """Projection weights from A, [min(C_A, C_B)]; their sum is at most 1."""
    weights_b: Floats
    """Projection weights from B, likewise."""


def own_moments(features: np.ndarray) -> OwnMoments:
    """Gather what features [M, C] say by themselves: once a cell, however many it is paired with.

    Each chunk is centred by itself and then joined to those before it (Chan et al., 1983), which
    is as exact as centring all at once.

    Raises:
        ValueError: A value is not finite, or the features are the same for every image.
    """
    sums = reduce(_joined, map(_sums, _chunks(features)))
    if not (sums.low < sums.high).any():
        raise ValueError("features are the same for every image, but must vary")
    norm = float(np.sqrt(np.trace(sums.products)))
    spread = float(np.linalg.norm(sums.products) / norm**2)
    root, whitener = _roots(sums.products / norm**2, sums.images)
    whitened = [((chunk - sums.mean) / norm) @ whitener for chunk in _chunks(features)]
    # Narrower types than float32 would round by more than metrics are written with.
    precision = np.result_type(features.dtype, np.float32)
    return OwnMoments(spread, root, np.concatenate(whitened, dtype=precision))


def moments(a: OwnMoments, b: OwnMoments, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> Moments:
    """Gather what two sets have in common.

    Args:
        a: Of all images of A.
        b: Of all images of B.
        rows: Where the same images are in both sets, some at a time, integers [m] and [m].
    """
    whitened = np.zeros((len(a.root), len(b.root)))
    for in_a, in_b in rows:
        whitened += a.whitened[in_a].T @ b.whitened[in_b]
    return Moments(a, b, whitened, a.root @ whitened @ b.root)


class _Sums(NamedTuple):
    """What a chunk of images says about a set."""

    images: int
    mean: Floats
    """Of every feature, [C]."""
    products: Floats
    """Of the centred features, [C, C]."""
    low: Floats
    """Least value of every feature, [C]."""
    high: Floats


def _sums(features: np.ndarray) -> _Sums:
    values = features.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("features hold values that are not finite, but must be numbers")
    low, high, mean = values.min(axis=0), values.max(axis=0), values.mean(axis=0)
    values -= mean
    return _Sums(len(values), mean, values.T @ values, low, high)


def _joined(one: _Sums, other: _Sums) -> _Sums:
    images = one.images + other.images
    apart = other.mean - one.mean
    between = np.outer(apart, apart) * (one.images * other.images / images)
    return _Sums(
        images,
        one.mean + apart * (other.images / images),
        one.products + other.products + between,
        np.minimum(one.low, other.low),
        np.maximum(one.high, other.high),
    )


def _chunks(features: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(features), CHUNK):
        yield features[start : start + CHUNK]


def canonical_correlations(of: Moments) -> CanonicalCorrelations:
    """Canonical correlation analysis.

    The weights are those of Morcos et al. (2018): the summed absolute projections of the
    features on each canonical vector. They are normalised over all C directions of their set,
    also those beyond min(C_A, C_B), as the published study did.

    Raises:
        ValueError: There are not more images than features.
    """
    images, most = len(of.a.whitened), max(of.whitened.shape)
    if images <= most:
        raise ValueError(f"CCA was given {images} images, but must have more than {most} features")
    left, rho, right = np.linalg.svd(of.whitened)
    return CanonicalCorrelations(
        rho=np.clip(rho, 0.0, 1.0),
        weights_a=_weights(left.T @ of.a.root, len(rho)),
        weights_b=_weights(right @ of.b.root, len(rho)),
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
    return max(0.0, float(1.0 - np.linalg.norm(of.ab) ** 2 / (of.a.spread * of.b.spread)))


def procrustes(of: Moments) -> float:
    """Orthogonal Procrustes distance (Ding et al., 2021).

    `||A||_F^2 + ||B||_F^2 - 2 ||A^T B||_*`, in [0, 2], 0 for equal up to rotation.
    """
    return max(0.0, float(2.0 - 2.0 * np.linalg.norm(of.ab, ord="nuc")))


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
