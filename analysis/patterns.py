"""Per-image similarity of reduction patterns: kept sets and partitions of the patches.

M images, N patches each. A kept set is a boolean mask [M, N]; a partition an integer label for
every patch [M, N]. Every function returns one value per image.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


class PartitionSimilarity(NamedTuple):
    """Agreement of a partition with a reference partition, each field [M] in [0, 1]."""

    homogeneity: NDArray[np.float64]
    """1 where no group mixes patches of several reference groups."""
    completeness: NDArray[np.float64]
    """1 where no reference group is spread over several groups."""
    v_measure: NDArray[np.float64]
    """Harmonic mean of the two."""


def kept_masks(kept: np.ndarray, num_patches: int) -> NDArray[np.bool_]:
    """Turn lists of patch indices into masks.

    Args:
        kept: Integer patch indices, [M, K], in any order, repeats allowed; every value outside
            0..num_patches-1 is padding.
        num_patches: N.

    Returns:
        Boolean masks, [M, N], True where the patch is kept.
    """
    images, count = kept.shape
    # Negative values turn into very large ones; all padding goes to a column of its own.
    places = np.minimum(kept.astype(np.int32).view(np.uint32), np.uint32(num_patches))
    ends = (np.arange(images + 1) * count).astype(np.int32)  # SciPy is faster with these.
    sets = csr_array(
        (np.ones(places.size, dtype=np.bool_), places.ravel().view(np.int32), ends),
        shape=(images, num_patches + 1),
    )
    return sets.toarray()[:, :num_patches]


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union, `|A & B| / |A | B|`, of masks [M, N]; [M] in [0, 1], 0 for 0/0."""
    return _ratio(_count(a & b), _count(a | b))


def ioa(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over the area of B, `|A & B| / |B|`, of masks [M, N]; [M] in [0, 1], 0 for 0/0.

    1 where A keeps everything that B keeps; B is the cell that keeps fewer patches.
    """
    return _ratio(_count(a & b), _count(b))


def partition_similarity(reference: np.ndarray, labels: np.ndarray) -> PartitionSimilarity:
    """Homogeneity, completeness and V-measure (Rosenberg and Hirschberg, 2007), beta = 1.

    `homogeneity = I(reference; labels) / H(reference)`, `completeness = I / H(labels)`, each 1
    where its entropy is 0. Exchanging the arguments exchanges the two.

    Args:
        reference: Non-negative integer labels counted as the true classes, [M, N].
        labels: Non-negative integer labels counted as the clusters, [M, N].
    """
    groups = int(labels.max(initial=0)) + 1
    most = (int(reference.max(initial=0)) + 1) * groups
    # NumPy sorts narrow integers several times as fast, but not the narrowest.
    narrow = np.int32 if most <= np.iinfo(np.int32).max else np.int64
    reference, labels = reference.astype(narrow), labels.astype(narrow)
    joint = reference * narrow(groups) + labels
    entropy_reference, entropy_labels = _entropy(reference), _entropy(labels)
    information = np.maximum(entropy_reference + entropy_labels - _entropy(joint), 0.0)
    homogeneity = _ratio(information, entropy_reference, undefined=1.0)
    completeness = _ratio(information, entropy_labels, undefined=1.0)
    v_measure = _ratio(2 * homogeneity * completeness, homogeneity + completeness)
    return PartitionSimilarity(homogeneity, completeness, v_measure)


def _entropy(labels: np.ndarray) -> NDArray[np.float64]:
    """Entropy in nats of the labels [M, N] of each image, from the run lengths of sorted rows."""
    images, patches = labels.shape
    ordered = np.sort(labels, axis=1)
    first = np.ones(labels.shape, dtype=np.bool_)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=first[:, 1:])
    starts = np.flatnonzero(first)
    share = np.arange(patches + 1) / patches
    terms = -share * np.log(share, out=np.zeros(patches + 1), where=share > 0)
    runs = terms[np.diff(starts, append=labels.size)]
    first_run = np.searchsorted(starts, np.arange(0, labels.size, patches))
    return np.add.reduceat(runs, first_run) if images else np.zeros(0)


def _count(masks: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Number of patches in each of the masks [M, N]."""
    return masks.view(np.uint8).sum(axis=1, dtype=np.uint32)


def _ratio(
    numerator: np.ndarray, denominator: np.ndarray, undefined: float = 0.0
) -> NDArray[np.float64]:
    """Divide elementwise; `undefined` where the denominator is 0."""
    result = np.full(denominator.shape, undefined)
    return np.divide(numerator, denominator, out=result, where=denominator != 0)
