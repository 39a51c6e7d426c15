from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies
from hypothesis.extra.numpy import array_shapes, arrays

from analysis.overlays import COLOUR_LETTERS, HUES, group_overlay, kept_overlay


def test_kept_patches_are_marked_row_by_row_and_padding_nowhere():
    assert kept_overlay(np.array([4, 0, 255, 255], np.uint8), 6) == "+...+."
    assert kept_overlay(np.array([-1, 4]), 6) == "....+."
    assert kept_overlay(np.array([], np.uint8), 3) == "..."


def test_few_groups_have_a_colour_each_the_largest_the_first():
    groups = np.array([7, 7, 7, 2, 2, 9])
    assert group_overlay(groups, (2, 3)) == "000112"
    assert group_overlay(groups, (3, 2)) == "000112"


def test_as_many_groups_as_hues_all_differ():
    letters = group_overlay(np.arange(len(HUES)), (2, len(HUES) // 2))
    assert len(set(letters)) == len(HUES)


@given(
    arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=strategies.integers(0, 30),
    )
)
def test_letters_change_exactly_where_groups_do(labels):
    letters = np.array(list(group_overlay(labels.ravel(), labels.shape))).reshape(labels.shape)
    assert np.array_equal(letters[1:] != letters[:-1], labels[1:] != labels[:-1])
    assert np.array_equal(letters[:, 1:] != letters[:, :-1], labels[:, 1:] != labels[:, :-1])


def test_groups_that_touch_more_others_than_there_are_hues_still_differ_from_them():
    labels = np.zeros((2, 20), int)
    labels[1] = np.arange(1, 21)
    labels[0, ::2] = 21  # Two long groups, both touching one another and many small ones.
    letters = group_overlay(labels.ravel(), labels.shape)
    across = {frozenset(pair) for pair in zip(letters[:20], letters[20:], strict=True)}
    assert all(len(pair) == 2 for pair in across)


def test_groups_that_cannot_be_coloured_are_refused(monkeypatch):
    monkeypatch.setattr("analysis.overlays.COLOUR_LETTERS", COLOUR_LETTERS[:2])
    with pytest.raises(ValueError, match="groups take 3 colours; there are 2"):
        group_overlay(np.array([0, 1, 2]), (1, 3))


def test_groups_share_colours_evenly():
    checks = np.arange(64)
    counts = Counter(group_overlay(checks, (8, 8)))
    assert len(counts) == len(HUES)
    assert max(counts.values()) - min(counts.values()) <= 2
