"""The report's plotly figures, as plain JSON-ready dictionaries.

Colours of the form `var(--name)` are CSS variables; the page fills them in, so that a figure
follows the light and the dark theme.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

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
    scale: float = 1
    """What a metric's value is divided by, to be in this unit."""

    def of(self, record: CellRecord, metric: str) -> float:
        """Return what a cell costs by this metric, in this unit."""
        return float(record.metrics[metric]) / self.scale


COSTS = {
    "gmacs": Cost("GMACs per image", "GMACs", more_is_better=False),
    "images_per_second": Cost("images per second", "images/s", more_is_better=True),
    "parameters": Cost("parameters (millions)", "M parameters", more_is_better=False, scale=1e6),
    "peak_memory_mb": Cost("peak memory (MiB)", "MiB", more_is_better=False),
}
"""Metric -> what it is."""


def accuracy_by_rate(
    records: Sequence[CellRecord], styles: dict[str, MethodStyle], rates: Sequence[float]
) -> Figure:
    """Accuracy of evaluated cells of one dataset and capacity against the keep rate.

    Args:
        records: Evaluated cells; several seeds of a cell become their mean and standard
            deviation.
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
    traces = [
        _cost_line(mine, style, cost) | {"marker": _marker(style, size=7 + 3 * place)}
        for method, style in styles.items()
        for place, capacity in enumerate(capacities)
        if (mine := [r for r in known if (r.method, r.capacity) == (method, capacity)])
    ]
    return {
        "data": [*_front(known, cost), *traces],
        "layout": {
            "xaxis": {"title": {"text": COSTS[cost].title}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": _metric_name(records)}},
        },
    }


def on_front(records: Sequence[CellRecord], cost: str) -> list[CellRecord]:
    """Return the cells on the Pareto front, the cheapest first.

    No other of `records` is as accurate and costs as little by `cost`, a metric of `COSTS`.
    """
    known = [record for record in records if record.metrics.get(cost)]
    if not known:
        return []
    sign = -1.0 if COSTS[cost].more_is_better else 1.0
    costs = np.array([sign * record.metrics[cost] for record in known])
    best = pareto_front(costs, np.array([record.metrics["accuracy"] for record in known]))
    return [known[place] for place in np.argsort(costs, kind="stable") if best[place]]


def by_block(
    lines: Mapping[str, Mapping[int, Sequence[float]]], styles: dict[str, MethodStyle], title: str
) -> Figure:
    """One value a block of each method, from the first block to the last.

    Args:
        lines: Method -> block -> value of every seed.
        styles: Style of every method.
        title: What the values are.
    """
    traces = []
    for method, values in lines.items():
        blocks = sorted(values)
        trace = _line(method, styles[method], blocks, [values[block] for block in blocks])
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


def _by_rate(records: Iterable[CellRecord]) -> dict[float, list[float]]:
    points: dict[float, list[float]] = {}
    for record in sorted(records, key=lambda record: record.keep_rate):
        points.setdefault(record.keep_rate, []).append(record.metrics["accuracy"])
    return points


def _line(
    method: str, style: MethodStyle, x: Sequence[float], seeds: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """A method's line; every point is the mean of its seeds, with their deviation as a bar."""
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(method),
        "meta": method,
        "x": x,
        "y": [round(fmean(values), 4) for values in seeds],
        "line": {"color": style.colour, "dash": style.dash, "width": 2},
        "marker": _marker(style),
        "hovertemplate": "keep rate %{x}<br>%{y:.2f}",
    }
    if any(len(values) > 1 for values in seeds):
        spread = [round(stdev(values), 4) if len(values) > 1 else 0.0 for values in seeds]
        trace["error_y"] = {"array": spread, "thickness": 1}
    return trace


def _cost_line(records: Sequence[CellRecord], style: MethodStyle, cost: str) -> dict[str, Any]:
    """The cells of a method and capacity, seeds apart, joined in the order of their keep rates."""
    records = sorted(records, key=lambda record: (record.keep_rate, record.seed))
    costs = [COSTS[cost].of(record, cost) for record in records]
    accuracies = [[record.metrics["accuracy"]] for record in records]
    trace = _line(records[0].method, style, costs, accuracies)
    words = [f"{escape(r.capacity)}, keep rate {r.keep_rate:g}, seed {r.seed}" for r in records]
    unit = COSTS[cost].unit
    return trace | {
        "text": words,
        "hovertemplate": f"%{{text}}<br>%{{x:.4g}} {unit}<br>%{{y:.2f}}",
    }


def _marker(style: MethodStyle, size: int = 8) -> dict[str, Any]:
    return {"color": style.colour, "symbol": style.symbol, "size": size}


def _front(records: Sequence[CellRecord], cost: str) -> list[dict[str, Any]]:
    best = on_front(records, cost)
    if not best:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [COSTS[cost].of(record, cost) for record in best],
            "y": [record.metrics["accuracy"] for record in best],
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
