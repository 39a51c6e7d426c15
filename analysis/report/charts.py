"""The report's plotly figures, as plain JSON-ready dictionaries.

Colours of the form `var(--name)` are CSS variables; the page fills them in, so that a figure
follows the light and the dark theme.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from analysis.aliases import Trace
from analysis.records import CellRecord, asked_for, rate_in_words
from analysis.report.style import BASELINE, SOFT, MethodStyle
from analysis.statistics import pareto_front

Figure = dict[str, Any]

METRIC_NAMES = {
    "top1": "top-1 accuracy (%)",
    "map": "mAP (%)",
    "cosine": "100 x cosine to the unreduced host",
}


class CostAxis(NamedTuple):
    """Something that engineers weigh against accuracy."""

    title: str
    unit: str
    more_is_better: bool


COSTS = {
    "gmacs": CostAxis("GMACs per image", "GMACs", more_is_better=False),
    "speed_up": CostAxis("speed-up", "x the unreduced model", more_is_better=True),
    "latency_ms": CostAxis("latency of one image (ms)", "ms", more_is_better=False),
    "peak_memory_mb": CostAxis("peak memory (MiB)", "MiB", more_is_better=False),
}
"""Metric -> what it is."""


def accuracy_by_rate(
    records: Sequence[CellRecord],
    styles: dict[str, MethodStyle],
    rates: Sequence[float],
    lit: Collection[str] | None = None,
) -> Figure:
    """Accuracy of evaluated cells of one dataset and capacity against the keep rate.

    Args:
        records: Evaluated cells; several seeds of a cell become their mean and standard
            deviation.
        styles: Style of every method, in the order of the legend.
        rates: The axis' ticks, and how far the baseline's line goes.
        lit: Methods in their own colours, named at their lines' ends, as baselines are; others are
            grey and behind them. None for all in their own.
    """
    grey, own = [], []
    for method, style in styles.items():
        mine = [record for record in records if record.method == method]
        points = _by_rate(mine)
        if not points:
            continue
        if mine[0].family == BASELINE:
            level = fmean(value for values in points.values() for value in values)
            points = {rate: [level] for rate in (min(rates), max(rates))}
        trace = _line(method, style, list(points), list(points.values()))
        if lit is None or method in lit or mine[0].family == BASELINE:
            own.append(trace)
        else:
            grey.append(_greyed(trace))
    labels = [] if lit is None else _labels(own, [*own, *grey])
    words = [rate_in_words(records, rate) for rate in rates]
    named = {"ticktext": words} if any("=" in word for word in words) else {}
    return {
        "data": [*grey, *own],
        "layout": {
            "xaxis": {"title": {"text": "keep rate"}, "tickvals": list(rates)} | named,
            "yaxis": {"title": {"text": _metric_name(records)}},
            **({"annotations": labels, "margin": LABEL_MARGIN} if labels else {}),
        },
    }


LABEL_MARGIN = {"l": 8, "r": 92, "t": 12, "b": 8}
LABEL_SPACING = 14
"""Pixels from one name to the next."""
PLOT_PIXELS = 240
"""Height of what is between the axes, about."""


def _greyed(trace: Trace) -> Trace:
    """Return a line that is there to compare with."""
    marker = {**trace["marker"], "color": SOFT, "size": 3}
    return {
        **{name: value for name, value in trace.items() if name != "error_y"},
        "line": {"color": SOFT, "dash": "solid", "width": 1},
        "marker": marker,
        "opacity": GREYED,
        "hoverinfo": "skip",
    }


GREYED = 0.3


def _labels(named: Sequence[Trace], drawn: Sequence[Trace]) -> list[Trace]:
    """Return a name at the right end of each line, moved apart where they would overlap."""
    values = [y for trace in drawn for y in trace["y"]]
    pixels = PLOT_PIXELS / (max(values) - min(values) or 1)
    ends = sorted(named, key=lambda trace: trace["y"][-1])
    labels, taken = [], -float("inf")
    for trace in ends:
        height = trace["y"][-1] * pixels
        taken = max(height, taken + LABEL_SPACING)
        labels.append(
            {
                "x": trace["x"][-1],
                "y": trace["y"][-1],
                "text": trace["name"],
                "name": trace["meta"],
                "showarrow": False,
                "xanchor": "left",
                "xshift": 8,
                "yshift": round(taken - height),
                "font": {"color": trace["line"]["color"], "size": 11},
            }
        )
    return labels


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


def finding(figure: Figure) -> str:
    """Say what a figure shows: where its lines begin and end, or its least and largest field."""
    if "z" in figure["data"][0]:
        return "; ".join(_field_words(trace) for trace in figure["data"])
    own = [trace for trace in figure["data"] if trace.get("opacity") != GREYED]
    return "; ".join(
        f"{trace['name']} {trace['y'][0]} at {trace['x'][0]}"
        + (f" to {trace['y'][-1]} at {trace['x'][-1]}" if len(trace["x"]) > 1 else "")
        for trace in own
    )


def _field_words(trace: Trace) -> str:
    fields = [
        (value, trace["y"][row], trace["x"][column])
        for row, values in enumerate(trace["z"])
        for column, value in enumerate(values)
        if value is not None and "x" in trace
    ]
    if not fields:
        return "no values"
    least, most = min(fields), max(fields)
    return (
        f"from {least[0]:.3g} ({least[1]} and {least[2]}) to {most[0]:.3g} "
        f"({most[1]} and {most[2]})"
    )


def _by_rate(records: Iterable[CellRecord]) -> dict[float, list[float]]:
    points: dict[float, list[float]] = {}
    for record in sorted(records, key=lambda record: record.keep_rate):
        points.setdefault(record.keep_rate, []).append(record.metrics["accuracy"])
    return points


def _line(
    method: str, style: MethodStyle, x: Sequence[float], seeds: Sequence[Sequence[float]]
) -> Trace:
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


def _cost_line(records: Sequence[CellRecord], style: MethodStyle, cost: str) -> Trace:
    """The cells of a method and capacity, seeds apart, joined in the order of their keep rates."""
    records = sorted(records, key=lambda record: (record.keep_rate, record.seed))
    costs = [float(record.metrics[cost]) for record in records]
    accuracies = [[record.metrics["accuracy"]] for record in records]
    trace = _line(records[0].method, style, costs, accuracies)
    words = [f"{escape(r.capacity)}, {asked_for(escape(r.budget))}, seed {r.seed}" for r in records]
    unit = COSTS[cost].unit
    return trace | {
        "text": words,
        "hovertemplate": f"%{{text}}<br>%{{x:.4g}} {unit}<br>%{{y:.2f}}",
    }


def _marker(style: MethodStyle, size: int = 8) -> Trace:
    return {"color": style.colour, "symbol": style.symbol, "size": size}


def _front(records: Sequence[CellRecord], cost: str) -> list[Trace]:
    best = on_front(records, cost)
    if not best:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [float(record.metrics[cost]) for record in best],
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
