"""Which images are worth a look, by a rule.

M images, N patches each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.patterns import iou, partition_similarity

Rule = Literal["first", "disagreed", "divided"]
Measure = Callable[[np.ndarray, np.ndarray], NDArray[np.float64]]
"""Compares patterns of M images, gives [M]."""

IMAGES_AT_ONCE = 4096
"""How many are compared in one go, to bound the memory it takes."""


def choose(
    images: np.ndarray,
    agreement: NDArray[np.float64] | None,
    right: NDArray[np.bool_],
    *,
    count: int,
) -> dict[Rule, list[int]]:
    """Choose images by three rules, each image once, by the first of them that takes it.

    - `first`: the first ones.
    - `disagreed`: those on which methods agree least.
    - `divided`: of those that some cells get right and others wrong, those that divide the cells
      most evenly.

    Of images that are equal in that, the first is taken.

    Args:
        images: Ids of the images, integers [M], each once.
        agreement: How alike the methods' patterns of each image are, [M]; None where there are
            none to compare.
        right: Whether each cell gets each image right, [cells, M].
        count: Most images by each rule.

    Returns:
        Ids by rule.
    """
    unevenness = np.abs(right.mean(axis=0) - 0.5)
    by_unevenness = np.lexsort((images, unevenness))
    orders: dict[Rule, np.ndarray] = {
        "first": np.argsort(images),
        "disagreed": np.empty(0, dtype=np.int64),
        "divided": by_unevenness[unevenness[by_unevenness] < 0.5],
    }
    if agreement is not None:
        orders["disagreed"] = np.lexsort((images, agreement))
    chosen: dict[Rule, list[int]] = {}
    for rule, order in orders.items():
        taken = [image for ids in chosen.values() for image in ids]
        left = order[~np.isin(images[order], taken)]
        chosen[rule] = images[left[:count]].tolist()
    return chosen


def agreement(
    kept: Sequence[Mapping[int, NDArray[np.bool_]]], groups: Sequence[Mapping[int, np.ndarray]]
) -> NDArray[np.float64] | None:
    """Mean similarity of what methods make of each image, over all pairs of them and all blocks.

    Args:
        kept: Of each method that drops patches: block -> masks of what it keeps, [M, N]; compared
            by IoU.
        groups: Of each method that makes groups: block -> integer labels of the patches, [M, N];
            compared by V-measure.

    Returns:
        [M] in [0, 1], rounded so that orders do not hang on the last bits; None where there is
        nothing to compare.
    """
    compared = [*_pairs(iou, kept), *_pairs(_v_measure, groups)]
    if not compared:
        return None
    total = np.zeros(len(compared[0][1]))
    for start in range(0, len(total), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        for measure, a, b in compared:
            total[part] += measure(a[part], b[part])
    return (total / len(compared)).round(9)


def _pairs(
    measure: Measure, patterns: Sequence[Mapping[int, np.ndarray]]
) -> Iterator[tuple[Measure, np.ndarray, np.ndarray]]:
    for a, b in combinations(patterns, 2):
        for block in sorted(a.keys() & b.keys()):
            yield measure, a[block], b[block]


def _v_measure(a: np.ndarray, b: np.ndarray) -> NDArray[np.float64]:
    return partition_similarity(a, b).v_measure
