import numpy as np
import pytest

from analysis import image_choice as choice
from analysis.image_choice import agreement, choose

IMAGES = np.array([30, 10, 20, 50, 40, 60])


def test_images_are_chosen_by_each_rule_and_none_twice():
    alike = np.array([0.5, 0.1, 0.9, 0.2, 0.2, 0.9])
    right = np.array(
        [[1, 0, 1, 0, 1, 1], [1, 1, 1, 1, 0, 1], [1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 1]]
    )
    chosen = choose(IMAGES, alike, right.astype(bool), count=1)
    assert chosen == {"first": [10], "disagreed": [40], "divided": [50]}
    chosen = choose(IMAGES, alike, right.astype(bool), count=2)
    assert chosen == {"first": [10, 20], "disagreed": [40, 50], "divided": [60]}


def test_what_all_get_right_or_all_get_wrong_divides_nobody():
    right = np.array([[1, 0, 1, 0, 1, 0]] * 3, dtype=bool)
    chosen = choose(IMAGES, None, right, count=3)
    assert chosen == {"first": [10, 20, 30], "disagreed": [], "divided": []}


def test_of_equal_images_the_first_are_chosen():
    right = np.zeros((2, 6), dtype=bool)
    right[0] = True
    chosen = choose(IMAGES, np.ones(6), right, count=2)
    assert chosen == {"first": [10, 20], "disagreed": [30, 40], "divided": [50, 60]}


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_agreement_is_the_mean_over_pairs_and_blocks_that_can_be_compared(monkeypatch, at_once):
    monkeypatch.setattr(choice, "IMAGES_AT_ONCE", at_once)
    kept = [np.array(mask, dtype=bool) for mask in ([[1, 1, 0, 0]] * 3, [[1, 0, 1, 0]] * 3)]
    kept[1][1] = kept[0][1]
    groups = [np.array([[0, 0, 1, 1]] * 3), np.array([[4, 4, 2, 2]] * 3)]
    groups[1][2] = [0, 1, 0, 1]
    a, b = ({3: mask} for mask in kept)
    c, d = ({3: labels} for labels in groups)
    assert agreement([a, b], []) == pytest.approx([1 / 3, 1, 1 / 3])
    assert agreement([{}, {}], [c, {}, d]) == pytest.approx([1, 1, 0])
    assert agreement([a, b], [c, d]) == pytest.approx([2 / 3, 1, 1 / 6])
    nothing = np.zeros((3, 4), dtype=bool)
    assert agreement([a, b, {3: nothing}], []) == pytest.approx([1 / 9, 1 / 3, 1 / 9])
    later = [{**a, 6: nothing, 9: kept[0]}, {**b, 6: kept[0]}]
    assert agreement(later, []) == pytest.approx([1 / 6, 1 / 2, 1 / 6])
    assert agreement([a, {6: kept[0]}], [c]) is None
