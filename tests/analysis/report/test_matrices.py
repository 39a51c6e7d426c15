"""Colours of similarities: what chance alone would give is dark, whatever the number."""

import numpy as np
import pytest

from analysis.report.drawing import draw
from analysis.report.matrices import Scale, above_chance, matrix

VALUES = {("a", "b"): 0.6, ("b", "a"): 0.5, ("a", "c"): 0.2, ("c", "a"): 0.4, ("b", "c"): 1.0}
CHANCE = {("a", "b"): 0.5, ("b", "a"): 0.5, ("a", "c"): 0.5, ("c", "a"): np.nan, ("b", "c"): 1.0}


def test_what_is_above_chance_is_a_share_of_what_could_be():
    found = above_chance(VALUES, CHANCE)
    expected = {("a", "b"): 0.2, ("b", "a"): 0, ("a", "c"): 0, ("c", "a"): 0.4}
    assert {pair: found[pair] for pair in expected} == pytest.approx(expected)
    assert np.isnan(found["b", "c"])


def test_fields_have_the_numbers_and_the_colours_of_what_is_above_chance():
    figure = matrix(VALUES, "abc", Scale.above_chance(), above_chance(VALUES, CHANCE))
    (fields,) = figure["data"]
    assert fields["text"][0] == ["", "0.60", "0.20"]
    assert fields["customdata"][0] == [None, 0.6, 0.2]
    assert fields["z"][0] == [None, 0.2, 0]
    assert (fields["zmin"], fields["zmax"]) == (0, 1)
    assert b">0.60<" in draw({"": figure})["svg"]
