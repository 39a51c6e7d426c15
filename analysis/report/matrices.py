"""Heat maps of the report, as plotly figures: similarities of every two, and maps of patches."""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from analysis.report import markup, pixels
from analysis.report.charts import Figure

FIELD_PIXELS = 28
"""Least width of a field that has a number of three digits in it."""
LETTER_PIXELS = 7


class Scale(NamedTuple):
    """What the colours of similarities or distances mean; what is alike is yellow."""

    low: float
    high: float
    is_distance: bool
    """0 is alike, and what is high is not."""
    form: str = ".2f"
    """How the numbers are written."""

    @classmethod
    def above_chance(cls) -> Self:
        """Return the scale of what `above_chance` returns."""
        return cls(0, 1, is_distance=False)

    @classmethod
    def fit(cls, values: np.ndarray, *, is_distance: bool, form: str = ".2f") -> Self:
        """Return a scale for values: of distances 0 to the most, else 0 or the least to 1."""
        finite = values[np.isfinite(values)]
        if is_distance:
            return cls(0, float(finite.max(initial=1e-3)), is_distance, form)
        return cls(float(finite.min(initial=0)), 1, is_distance, form)

    def html(self, unit: str = "") -> str:
        """Return the scale's bar, from unlike to alike."""
        ends = (self.high, self.low) if self.is_distance else (self.low, self.high)
        unlike, alike = (f"{end:.3g}" for end in ends)
        return markup.scale(pixels.CSS_GRADIENT, f"unlike: {unlike}", f"{alike}: alike {unit}")


Pairs = Mapping[tuple[str, str], float]


def matrix(
    values: Pairs, names: Sequence[str], scale: Scale, colours: Pairs | None = None
) -> Figure:
    """A field for every two of what is compared, A down and B across.

    Args:
        values: Value of (A, B); pairs without a number stay blank.
        names: Order of what is compared; what is in no pair is left out.
        scale: Colours and form of the values.
        colours: What is coloured of (A, B), if not the value.
    """
    compared = {name for pair in values for name in pair}
    present = [name for name in names if name in compared]
    words = [escape(name) for name in present]
    fields = [[_number(values.get((a, b))) for b in present] for a in present]
    heatmap = {
        "type": "heatmap",
        "x": words,
        "y": words,
        "z": fields,
        "texttemplate": f"%{{z:{scale.form}}}",
        "hovertemplate": "A %{y}<br>B %{x}<br>%{z:.4g}<extra></extra>",
        "zmin": scale.low,
        "zmax": scale.high,
        "colorscale": "Cividis",
        "reversescale": scale.is_distance,
        "showscale": False,
        "textfont": {"size": 11},
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
    }
    if colours is not None:
        heatmap["z"] = [[_number(colours.get((a, b))) for b in present] for a in present]
        heatmap["text"] = [[_word(value, scale.form) for value in row] for row in fields]
        heatmap["customdata"] = fields
        heatmap["texttemplate"] = "%{text}"
        heatmap["hovertemplate"] = "A %{y}<br>B %{x}<br>%{customdata:.4g}<extra></extra>"
    axis = {"showgrid": False, "type": "category", "ticks": ""}
    label = 20 + LETTER_PIXELS * max(map(len, present), default=0)
    size = len(words) * (FIELD_PIXELS + 12 * (scale.form > ".2f"))
    return {
        "data": [heatmap],
        "layout": {
            "height": max(80, len(words) * FIELD_PIXELS) + label,
            "meta": {"min_width": max(80, size) + label},
            "xaxis": {**axis, "tickangle": -90},
            "yaxis": {**axis, "autorange": "reversed"},
        },
    }


def width(plots: Mapping[str, Figure]) -> float:
    """Return the width that the widest of some matrices needs, in font sizes of the page."""
    return max(plot["layout"]["meta"]["min_width"] for plot in plots.values()) / 16


def means(rows: pd.DataFrame, side: str, value: str) -> dict[tuple[str, str], float]:
    """Mean of a column of a pair table over its rows (seeds) with the same A and B.

    Args:
        rows: Rows of a pair table.
        side: What A and B are told apart by, such as `method`, of `method_a` and `method_b`.
        value: The column.
    """
    seeds: dict[tuple[str, str], list[float]] = {}
    for a, b, found in zip(rows[f"{side}_a"], rows[f"{side}_b"], rows[value], strict=True):
        seeds.setdefault((str(a), str(b)), []).append(found)
    return {pair: fmean(values) for pair, values in seeds.items()}


def above_chance(values: Pairs, chance: Pairs) -> dict[tuple[str, str], float]:
    """Return what similarities are above chance, as a share of what is possible above it.

    Args:
        values: Similarity of (A, B), at most 1.
        chance: What would be found by chance, 0 where that is not known.

    Returns:
        0 where a value is no higher than chance, up to 1.
    """
    known = {pair: level if np.isfinite(level) else 0.0 for pair, level in chance.items()}
    return {
        pair: max(value - known[pair], 0.0) / (1 - known[pair]) if known[pair] < 1 else np.nan
        for pair, value in values.items()
    }


def depth_map(values: np.ndarray, low: float, high: float) -> Figure:
    """A token-depth map [rows, columns], coloured from `low` to `high`."""
    heatmap = {"type": "heatmap", "z": values.tolist(), "zmin": low, "zmax": high}
    return {"data": [heatmap | {"colorscale": "Cividis"}], "layout": {}}


def _word(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _number(value: float | None) -> float | None:
    if value is None or not np.isfinite(value):
        return None
    return float(f"{value:.4g}")
