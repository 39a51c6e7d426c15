"""The report's section on tuning: which values each method was given, and what they changed."""

import json
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from analysis.aliases import Row, Trace
from analysis.records import CellRecord
from analysis.report import markup
from analysis.report.charts import GREYED, METRIC_NAMES, Figure
from analysis.report.groups import Key
from analysis.report.report_context import ReportContext
from analysis.report.style import SOFT, MethodStyle, method_styles
from analysis.tuning_choices import Orders, along, by_setting, main_field, orders

LOGARITHMIC_FROM = 10
"""Largest over smallest value from which an axis is logarithmic."""
CAPTION = (
    "Accuracy of the trials on held-out training images, never the reported ones, against the "
    "value tried; of several trials with a value, the best. A line is a method; the disc is "
    "behind what was chosen for it."
)


def tuning(findings: ReportContext) -> str:
    """Accuracy on held-out images against tuned values; nothing where nothing is tuned."""
    trials = findings.table("tuning")
    if trials.empty:
        return ""
    views: dict[Key, str] = {
        (dataset, capacity, recipe): _setting(findings, (dataset, capacity, recipe), rows)
        for (recipe, dataset, capacity), rows in by_setting(trials)
    }
    return markup.views(views, ("Dataset", "Capacity", "Recipe"))


def order_in_words(found: Orders) -> str:
    """Return whether the best values that all methods share would have ordered them otherwise."""
    at = f"{in_words(found.values)}, the best single choice for all methods,"
    stopped = " (Trials that were stopped count as they stood.)" if found.stopped else ""
    if found.same:
        return (
            f"At {at} the order of methods on held-out images is the same as with values of their "
            f"own: {', '.join(found.own)}.{stopped}"
        )
    return (
        f"At {at} the order of methods on held-out images would have been another: "
        f"{', '.join(found.shared)} instead of {', '.join(found.own)}.{stopped}"
    )


def in_words(values: Row) -> str:
    """Return values as in `lr 0.001, drop_path 0`."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _setting(findings: ReportContext, key: Key, trials: pd.DataFrame) -> str:
    found, field = orders(trials), main_field(trials)
    sentence = markup.caption(order_in_words(found)) if found else ""
    shown = ""
    if field and trials["accuracy"].notna().any():
        plot = _figure(trials, field)
        name = f"tuning {' '.join(key)}"
        shown = markup.figure(findings.figures.shown(name, {field: plot}), CAPTION)
    return shown + sentence + _table(trials)


def _figure(trials: pd.DataFrame, field: str) -> Figure:
    points = along(trials, field)
    ticks = sorted(set(points["x"]))
    # Both the page and the files then draw it alike.
    logarithmic = ticks[0] > 0 and ticks[-1] / ticks[0] >= LOGARITHMIC_FROM
    points = points.assign(place=np.log10(points["x"]) if logarithmic else points["x"])
    places = np.log10(ticks).tolist() if logarithmic else ticks
    styles = _styles(trials)
    lines = [
        _line(method, style, rows, field)
        for method, style in styles.items()
        if len(rows := points[points["method"] == method])
    ]
    metric = str(points["metric"].iloc[0])
    words = [f"{tick:g}" for tick in ticks]
    return {
        "data": [*_chosen(points[points["chosen"]]), *lines],
        "layout": {
            "xaxis": {"title": {"text": field}, "tickvals": places, "ticktext": words},
            "yaxis": {"title": {"text": METRIC_NAMES.get(metric, metric)}},
        },
    }


def _styles(trials: pd.DataFrame) -> dict[str, MethodStyle]:
    records = [
        CellRecord(
            cell_id=str(row["cell_id"]), dataset="", method=str(row["method"]),
            family=str(row["family"]), capacity="", keep_rate=1.0, stages=(), seed=0,
        )
        for row in trials.to_dict("records")
    ]  # fmt: skip
    return method_styles(records)


def _line(method: str, style: MethodStyle, points: pd.DataFrame, field: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(method),
        "meta": method,
        **_places(points),
        "text": [f"{field} {x:g}" for x in points["x"]],
        "line": {"color": style.colour, "dash": style.dash, "width": 2},
        "marker": {"color": style.colour, "symbol": style.symbol, "size": 8},
        "hovertemplate": "%{text}<br>%{y:.2f}",
    }


def _chosen(points: pd.DataFrame) -> list[Trace]:
    """A disc behind what was chosen for each method."""
    if points.empty:
        return []
    marker = {"color": SOFT, "symbol": "circle", "size": 18}
    disc = {"type": "scatter", "mode": "markers", "name": "chosen", "hoverinfo": "skip"}
    return [{**disc, **_places(points), "marker": marker, "opacity": GREYED}]


def _places(points: pd.DataFrame) -> Trace:
    accuracies = [round(value, 4) for value in points["accuracy"]]
    return {"x": [round(place, 4) for place in points["place"]], "y": accuracies}


def _table(trials: pd.DataFrame) -> str:
    """What was chosen for each method, what is at the edge of its range marked."""
    rows = [
        [
            escape(str(row["method"])),
            escape(in_words(json.loads(row["values"]))),
            f"<b>at the edge: {escape(row['edge'])}</b>" if isinstance(row["edge"], str) else "",
            markup.number(row["accuracy"]),
            markup.number(row["loss"], ".3f"),
        ]
        for row in trials[trials["chosen"]].to_dict("records")
    ]
    if not rows:
        done = int(trials["accuracy"].notna().sum())
        return markup.empty(f"Nothing is chosen yet: {done} of {len(trials)} trials are trained.")
    columns = ("Method", "Chosen", "Range", "Held out", "Loss")
    return markup.table(columns, rows, name="choices", numbers=2)


def _plain(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else json.dumps(value)
