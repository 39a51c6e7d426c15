"""The methods' colours can be told apart, with any colour vision and on both themes."""

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest

from analysis.report.style import COLOURS

TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1, 1.089])
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip
"""On linear RGB (Machado et al., 2009, severity 1)."""


def linear(colour):
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    scaled = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    x, y, z = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_with_any_colour_vision(vision):
    seen = [lab(np.array(VISIONS[vision]) @ linear(colour)) for colour in COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20


def test_colours_stand_out_from_both_themes():
    style = files("analysis.report").joinpath("style.css").read_text()
    light, dark = re.findall(r"--card: (#\w{6});", style)
    assert linear(light)[0] > linear(dark)[0]
    for colour in COLOURS:
        for card in (light, dark):
            low, high = sorted(TO_XYZ[1] @ linear(c) + 0.05 for c in (colour, card))
            assert high / low >= 3, (colour, card)  # What WCAG 2.2 asks of graphics.
