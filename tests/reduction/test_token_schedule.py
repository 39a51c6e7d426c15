"""Keep rates become token counts."""

import pytest

from reduction.schedule import keep_fractions, token_targets


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.25, (49, 12, 3)),
        (0.5, (98, 49, 24)),
        (0.7, (137, 96, 67)),
        (0.9, (176, 158, 142)),
        (1, (196, 196, 196)),
        ([0.7, 0.5, 0.5], (137, 98, 98)),
    ],
)
def test_targets_on_196_patches(rate, expected):
    assert token_targets(rate, 3, 196) == expected


def test_a_number_is_cumulative_and_a_list_is_absolute():
    assert keep_fractions(0.5, 3) == (0.5, 0.25, 0.125)
    assert keep_fractions((0.5, 0.5), 2) == (0.5, 0.5)
