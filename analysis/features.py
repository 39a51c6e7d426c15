"""Similarity of two sets of features of the same images: CCA, linear CKA and Procrustes.

Features are [M, C]: M images, C features; the two sets may differ in C. They are centred over
the images, divided by their Frobenius norm, and computed with in float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

METRICS = ("pwcca", "mean_cca", "mean_squared_cca", "cka", "procrustes")
"""The functions of this module that measure how alike two sets are."""


class CanonicalCorrelations(NamedTuple):
    """Canonical correlations of A and B, and how much of each set every one accounts for."""

    rho: Floats
    """Correlations, descending, [min(C_A, C_B)] in [0, 1]; 0 for directions without variance."""
    weights_a: Floats
    """Projection weights from A, [min(C_A, C_B)]; their sum is at most 1."""
    weights_b: Floats
    """Projection weights from B, likewise."""


def prepare(features: np.ndarray) -> Floats:
    """Centre features [M, C] over the images and divide them by their Frobenius norm.

    Raises:
        ValueError: A value is not finite, or the features are the same for every image.
    """
    centred = features.astype(np.float64)
    if not np.isfinite(centred).all():
        raise ValueError("features hold values that are not finite, but must be numbers")
    spread = np.ptp(centred, axis=0)
    centred -= centred.mean(axis=0)
    if not spread.any():
        raise ValueError("features are the same for every image, but must vary")
    return centred / np.linalg.norm(centred)


def canonical_correlations(a: np.ndarray, b: np.ndarray) -> CanonicalCorrelations:
    """Canonical correlation analysis of prepared features.

    The weights are those of Morcos et al. (2018): the summed absolute projections of the
    features on each canonical vector. They are normalised over all C directions of their set,
    also those beyond min(C_A, C_B), as the published study did.

    Args:
        a: Prepared features, [M, C_A].
        b: Prepared features, [M, C_B].

    Raises:
        ValueError: There are not more images than features.
    """
    images, most = len(a), max(a.shape[1], b.shape[1])
    if images <= most:
        raise ValueError(f"CCA was given {images} images, but must have more than {most} features")
    root_a, whiten_a = _roots(a)
    root_b, whiten_b = _roots(b)
    left, rho, right = np.linalg.svd(whiten_a @ (a.T @ b) @ whiten_b)
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


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA distance of prepared features [M, C_A] and [M, C_B] (Kornblith et al., 2019).

    `1 - ||A^T B||_F^2 / (||A^T A||_F ||B^T B||_F)`, in [0, 1], 0 for equal up to rotation.
    """
    norm = np.linalg.norm
    return float(1.0 - norm(a.T @ b) ** 2 / (norm(a.T @ a) * norm(b.T @ b)))


def procrustes(a: np.ndarray, b: np.ndarray) -> float:
    """Orthogonal Procrustes distance of prepared features [M, C_A] and [M, C_B].

    `||A||_F^2 + ||B||_F^2 - 2 ||A^T B||_*` (Ding et al., 2021), in [0, 2], 0 for equal up to
    rotation.
    """
    nuclear = np.linalg.norm(a.T @ b, ord="nuc")
    return float(np.linalg.norm(a) ** 2 + np.linalg.norm(b) ** 2 - 2 * nuclear)


def _roots(features: Floats) -> tuple[Floats, Floats]:
    """Symmetric square root of the covariance [C, C], and its inverse on what has variance."""
    values, vectors = np.linalg.eigh(features.T @ features)
    # Below this a direction is the rounding of its neighbours; whitening would blow up noise.
    smallest = values[-1] * max(features.shape) * np.finfo(np.float64).eps
    live = values > smallest
    roots = np.sqrt(np.where(live, values, 0.0))
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=live)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T


def _weights(projections: Floats, count: int) -> Floats:
    """Share of every canonical direction, from the projections of the features [C, C]."""
    totals = np.abs(projections).sum(axis=1)
    return (totals / totals.sum())[:count]
