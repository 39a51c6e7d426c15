import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import homogeneity_completeness_v_measure
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from analysis.patterns import (
    ioa,
    iou,
    iou_chance,
    kept_masks,
    partition_similarity,
    v_measure_chance,
)


def _random(seed):
    return np.random.default_rng(seed)


def test_masks_ignore_padding_order_and_repeats():
    kept = np.array([[3, 0, 255, 3], [255, 255, 255, 255]], dtype=np.uint8)
    expected = [[True, False, False, True, False], [False] * 5]
    assert kept_masks(kept, 5).tolist() == expected
    signed = np.array([[3, -1, 0, -2], [-1, -1, -2, -2]], dtype=np.int16)
    assert kept_masks(signed, 5).tolist() == expected


def test_set_similarity_equals_python_sets():
    random = _random(0)
    a, b = random.random((2, 40, 30)) < random.uniform(0.2, 1, (2, 40, 1))
    for image in range(40):
        in_a, in_b = set(np.flatnonzero(a[image])), set(np.flatnonzero(b[image]))
        assert iou(a, b)[image] == len(in_a & in_b) / len(in_a | in_b)
        assert ioa(a, b)[image] == len(in_a & in_b) / len(in_b)


def test_set_similarity_of_empty_sets_is_zero():
    empty, full = np.zeros((1, 4), dtype=bool), np.ones((1, 4), dtype=bool)
    assert iou(empty, empty) == 0
    assert ioa(full, empty) == 0
    assert ioa(empty, full) == 0


@pytest.mark.parametrize("groups", [(1, 1), (1, 9), (9, 1), (5, 40), (60, 60)])
def test_partition_similarity_equals_scikit_learn(groups):
    random = _random(1)
    a, b = (random.integers(0, count, (20, 60)).astype(np.uint8) for count in groups)
    expected = [homogeneity_completeness_v_measure(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(np.transpose(partition_similarity(a, b)), expected, atol=1e-12)


def test_labels_of_any_width_and_sets_of_nothing():
    random = _random(2)
    a, b = random.integers(0, 9, (2, 5, 30))
    wide = partition_similarity(a * 2**40, b * 2**20)
    np.testing.assert_allclose(wide, partition_similarity(a, b), atol=1e-12)
    assert kept_masks(np.zeros((2, 0), np.uint8), 3).tolist() == [[False] * 3] * 2


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12))
def test_partition_similarity_properties(seed, groups_a, groups_b):
    random = _random(seed)
    a, b = random.integers(0, groups_a, (3, 25)), random.integers(0, groups_b, (3, 25))
    ab, ba = partition_similarity(a, b), partition_similarity(b, a)
    relabelled = partition_similarity(random.permutation(groups_a)[a], b)
    np.testing.assert_allclose(ab, relabelled, atol=1e-12)
    np.testing.assert_allclose(ab.homogeneity, ba.completeness, atol=1e-12)
    np.testing.assert_allclose(ab.v_measure, ba.v_measure, atol=1e-12)
    np.testing.assert_allclose(partition_similarity(a, a), 1, atol=1e-12)
    assert (np.array(ab) >= 0).all()
    assert (np.array(ab) <= 1 + 1e-12).all()


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_set_similarity_properties(seed, share_a, share_b):
    random = _random(seed)
    a, b = random.random((3, 25)) < share_a, random.random((3, 25)) < share_b
    order = random.permutation(25)
    assert (iou(a, b) == iou(b, a)).all()
    assert (iou(a, b) == iou(a[:, order], b[:, order])).all()
    assert (iou(a, a) == a.any(axis=1)).all()
    assert (iou(a, b) >= 0).all()
    assert (iou(a, b) <= ioa(a, b)).all()
    assert (ioa(a, b) <= 1).all()
    assert (ioa(a | b, b) == b.any(axis=1)).all()


def test_chance_of_kept_sets_is_what_random_sets_have():
    random = np.random.default_rng(0)
    a, b = (random.permuted(np.tile(np.arange(20) < n, (4000, 1)), axis=1) for n in (5, 12))
    expected = iou_chance(np.array([5]), np.array([12]), 20)
    assert iou(a, b).mean() == pytest.approx(expected[0], abs=0.005)
    assert iou_chance(np.array([20, 0, 0]), np.array([20, 3, 0]), 20).tolist() == [1, 0, 0]


def test_chance_of_partitions_is_scikit_learns_expected_information():
    random = np.random.default_rng(0)
    a, b = (
        random.integers(0, [[4], [9], [1]], (3, 30)),
        random.integers(0, [[3], [12], [5]], (3, 30)),
    )
    found = v_measure_chance(a, b)
    for one, other, value in zip(a, b, found, strict=True):
        table = contingency_matrix(one, other, sparse=True)
        expected = expected_mutual_information(table, 30)
        entropies = [stats.entropy(np.unique(of, return_counts=True)[1]) for of in (one, other)]
        assert value == pytest.approx(2 * expected / sum(entropies), abs=1e-12)
    shuffled = random.permuted(np.tile(b[:1], (2000, 1)), axis=1)
    measured = partition_similarity(np.tile(a[:1], (2000, 1)), shuffled).v_measure.mean()
    assert measured == pytest.approx(found[0], abs=0.005)
