"""Per-image similarity of reduction patterns: kept sets and partitions of the patches.

M images, N patches each. A kept set is a boolean mask [M, N]; a partition an integer label for
every patch [M, N]. Every function returns one value per image.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array

from analysis.aliases import Floats


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


def iou_chance(a: np.ndarray, b: np.ndarray, num_patches: int) -> Floats:
    """Expected intersection over union of independent, uniformly drawn sets of given sizes.

    The size of the intersection is hypergeometric.

    Args:
        a: Sizes of the sets A, [M] in 0..num_patches.
        b: Those of the sets B.
        num_patches: N.
    """
    sizes, image = np.unique(np.stack([a, b], axis=1), axis=0, return_inverse=True)
    of_a, of_b = sizes[:, :1].astype(np.int64), sizes[:, 1:].astype(np.int64)
    shared = np.arange(num_patches + 1)
    chance = stats.hypergeom.pmf(shared, num_patches, of_a, of_b)
    union = of_a + of_b - shared
    ratio = np.divide(shared, union, out=np.zeros(union.shape), where=union > 0)
    expected: Floats = (chance * ratio).sum(axis=1)
    return expected[image.ravel()]


def v_measure_chance(reference: np.ndarray, labels: np.ndarray) -> Floats:
    """Expected V-measure of partitions whose patches are permuted, [M] in [0, 1].

    The group sizes stay as they are, as in adjusted mutual information (Vinh et al., 2010), and
    with them both entropies: only the mutual information has to be expected.

    Args:
        reference: Non-negative integer labels of every patch, [M, N].
        labels: Those of the other partition, [M, N].
    """
    patches = reference.shape[1]
    (sizes_a, of_a), (sizes_b, of_b) = _group_sizes(reference), _group_sizes(labels)
    information = _expected_information(sizes_a, sizes_b, patches)
    expected = ((of_a @ information) * of_b).sum(axis=1)
    entropies = sum(
        of @ (-size / patches * np.log(size / patches))
        for size, of in ((sizes_a, of_a), (sizes_b, of_b))
    )
    return _ratio(2 * expected, np.asarray(entropies), undefined=1.0)


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


def _group_sizes(labels: np.ndarray) -> tuple[NDArray[np.int64], Floats]:
    """Return sizes of groups that occur, [U], and how many each image has of them, [M, U]."""
    images, patches = labels.shape
    groups = int(labels.max(initial=0)) + 1
    row = np.arange(images)[:, None]
    sizes = np.bincount((row * groups + labels).ravel(), minlength=images * groups)
    placed = row * (patches + 1) + sizes.reshape(images, groups)
    counts = np.bincount(placed.ravel(), minlength=images * (patches + 1))
    counts = counts.reshape(images, patches + 1)[:, 1:]
    occurring = np.flatnonzero(counts.any(axis=0))
    return occurring + 1, counts[:, occurring].astype(np.float64)


def _expected_information(a: np.ndarray, b: np.ndarray, patches: int) -> Floats:
    """Return what a group of A and one of B add to the expected mutual information, [U_A, U_B]."""
    of_a, of_b = a[:, None, None], b[None, :, None]
    shared = np.arange(1, patches + 1)
    chance = stats.hypergeom.pmf(shared, patches, of_a, of_b)
    terms = chance * (shared / patches) * np.log(patches * shared / (of_a * of_b))
    expected: Floats = terms.sum(axis=2)
    return expected


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
