"""The report's plotly figures, as plain JSON-ready dictionaries.

Colours of the form `var(--name)` are CSS variables; the page fills them in, so that a figure
follows the light and the dark theme.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.records import CellRecord
from analysis.report.style import BASELINE, SOFT, MethodStyle
from analysis.statistics import pareto_front

Figure = dict[str, Any]

METRIC_NAMES = {"top1": "top-1 accuracy (%)", "map": "mAP (%)"}


class Cost(NamedTuple):
    """Something that engineers weigh against accuracy."""

    title: str
    unit: str
    more_is_better: bool


COSTS = {
    "gmacs": Cost("GMACs per image", "GMACs", more_is_better=False),
    "images_per_second": Cost("images per second", "images/s", more_is_better=True),
}


def accuracy_by_rate(
    records: Sequence[CellRecord], styles: dict[str, MethodStyle], rates: Sequence[float]
) -> Figure:
    """Accuracy of evaluated cells of one dataset and capacity against the keep rate.

    Args:
        records: Evaluated cells; several seeds of a cell become a mean with their range.
        styles: Style of every method, in the order of the legend.
        rates: The axis' ticks, and how far the baseline's line goes.
    """
    traces = []
    for method, style in styles.items():
        mine = [record for record in records if record.method == method]
        points = _by_rate(mine)
        if not points:
            continue
        if mine[0].family == BASELINE:
            level = fmean(value for values in points.values() for value in values)
            points = {rate: [level] for rate in (min(rates), max(rates))}
        traces.append(_line(method, style, list(points), list(points.values())))
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "keep rate"}, "tickvals": list(rates)},
            "yaxis": {"title": {"text": _metric_name(records)}},
        },
    }


def accuracy_by_cost(
    records: Sequence[CellRecord], styles: dict[str, MethodStyle], cost: str
) -> Figure:
    """Accuracy of evaluated cells of one dataset against what they cost.

    Markers grow with capacity.

    Args:
        records: Evaluated cells.
        styles: Style of every method.
        cost: A metric of `COSTS`.
    """
    known = [record for record in records if record.metrics.get(cost)]
    capacities = sorted({record.capacity for record in known}, key=_mean_size(known))
    traces = []
    for method, style in styles.items():
        for place, capacity in enumerate(capacities):
            mine = [r for r in known if (r.method, r.capacity) == (method, capacity)]
            mine.sort(key=lambda record: record.metrics[cost])
            if not mine:
                continue
            trace = _line(
                method,
                style,
                [record.metrics[cost] for record in mine],
                [[record.metrics["accuracy"]] for record in mine],
            )
            trace["marker"]["size"] = 7 + 3 * place
            trace["text"] = [f"{escape(capacity)}, keep rate {r.keep_rate:g}" for r in mine]
            trace["hovertemplate"] = f"%{{text}}<br>%{{x:.4g}} {COSTS[cost].unit}<br>%{{y:.2f}}"
            traces.append(trace)
    return {
        "data": [*_front(known, cost), *traces],
        "layout": {
            "xaxis": {"title": {"text": COSTS[cost].title}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": _metric_name(records)}},
        },
    }


def by_block(
    lines: Mapping[str, Mapping[int, float]], styles: dict[str, MethodStyle], title: str
) -> Figure:
    """One value a block of each method, from the first block to the last.

    Args:
        lines: Method -> block -> value.
        styles: Style of every method.
        title: What the values are.
    """
    traces = []
    for method, values in lines.items():
        blocks = sorted(values)
        points = [[values[block]] for block in blocks]
        trace = _line(method, styles[method], blocks, points)
        trace["hovertemplate"] = "block %{x}<br>%{y:.3f}"
        traces.append(trace)
    ticks = sorted({block for values in lines.values() for block in values})
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "block"}, "tickvals": ticks},
            "yaxis": {"title": {"text": title}, "rangemode": "tozero"},
        },
    }


def matrix(rows: pd.DataFrame, value: str, methods: Sequence[str], *, alike: float) -> Figure:
    """Similarity of every two methods, A down and B across.

    Args:
        rows: Rows of a pair table; several for two methods (seeds) become their mean.
        value: Column to show, in [0, 1].
        methods: Order of the methods.
        alike: The value of cells that are alike, 1 for similarities, 0 for distances.
    """
    means = rows.groupby(["method_a", "method_b"])[value].mean()
    present = [m for m in methods if m in {*rows["method_a"], *rows["method_b"]}]
    names = [escape(method) for method in present]
    cells = [[_number(means.get((a, b))) for b in present] for a in present]
    heatmap = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": cells,
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Cividis",
        "reversescale": alike == 0,
        "texttemplate": "%{z:.2f}",
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "A %{y}<br>B %{x}<br>%{z:.4f}<extra></extra>",
        "hoverongaps": False,
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickvals": [0, 0.5, 1]},
    }
    return {
        "data": [heatmap],
        "layout": {
            "height": 130 + 30 * len(names),
            "xaxis": {"showgrid": False, "title": {"text": "B"}, "type": "category"},
            "yaxis": {
                "showgrid": False,
                "title": {"text": "A"},
                "type": "category",
                "autorange": "reversed",
            },
        },
    }


def depth_map(values: np.ndarray, low: float, high: float) -> Figure:
    """A token-depth map [rows, columns], coloured from `low` to `high`."""
    heatmap = {
        "type": "heatmap",
        "z": values.tolist(),
        "zmin": low,
        "zmax": high,
        "colorscale": "Cividis",
        "colorbar": {"tickvals": [low, high]},
    }
    return {"data": [heatmap], "layout": {}}


def _by_rate(records: Iterable[CellRecord]) -> dict[float, list[float]]:
    points: dict[float, list[float]] = {}
    for record in sorted(records, key=lambda record: record.keep_rate):
        points.setdefault(record.keep_rate, []).append(record.metrics["accuracy"])
    return points


def _line(
    method: str, style: MethodStyle, x: Sequence[float], seeds: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """A method's line; every point is the mean of its seeds, with their range as error bar."""
    means = [fmean(values) for values in seeds]
    ends = list(zip(means, seeds, strict=True))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(method),
        "meta": method,
        "x": x,
        "y": means,
        "error_y": {
            "visible": any(len(values) > 1 for values in seeds),
            "array": [max(values) - mean for mean, values in ends],
            "arrayminus": [mean - min(values) for mean, values in ends],
            "thickness": 1,
        },
        "line": {"color": style.colour, "dash": style.dash, "width": 2},
        "marker": {"color": style.colour, "symbol": style.symbol, "size": 8},
        "hovertemplate": "keep rate %{x}<br>%{y:.2f}",
    }


def _front(records: Sequence[CellRecord], cost: str) -> list[dict[str, Any]]:
    """The Pareto front: no other cell is as accurate and costs as little."""
    sign = -1.0 if COSTS[cost].more_is_better else 1.0
    points = [(record.metrics[cost], record.metrics["accuracy"]) for record in records]
    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    best = pareto_front(sign * x, y)
    if not best.any():
        return []
    order = np.argsort(x[best])
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": x[best][order].tolist(),
            "y": y[best][order].tolist(),
            "line": {"color": SOFT, "dash": "dash", "width": 1},
            "hoverinfo": "skip",
        }
    ]


def _mean_size(records: Sequence[CellRecord]) -> Any:
    def size(capacity: str) -> float:
        known = [r.metrics.get("parameters", 0) for r in records if r.capacity == capacity]
        return fmean(known)

    return size


def _metric_name(records: Sequence[CellRecord]) -> str:
    metric = records[0].metrics.get("metric", "accuracy")
    return METRIC_NAMES.get(metric, escape(str(metric)))


def _number(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), 4)
