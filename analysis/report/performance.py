"""The report's sections on accuracy and cost: each takes the findings and returns HTML."""

from collections.abc import Mapping, Sequence
from html import escape

from analysis.records import CellRecord
from analysis.report import charts, markup
from analysis.report.embeddings import of_features
from analysis.report.figures import Panels
from analysis.report.groups import (
    SETTING,
    Key,
    by_setting,
    evaluated,
    group,
    images_used,
    rates_of,
    title,
)
from analysis.report.report_context import ReportContext
from analysis.report.style import BASELINE, legend, method_styles, ordered_methods

NOT_MEASURED = "Not measured yet: tokensweep measure STUDY measures speed alone on a device."
NOTHING_EVALUATED = "No cell has been evaluated yet."
COSTS_IN_WORDS = {
    "gmacs": "Accuracy against the multiply-accumulate operations of an image (what papers call "
    "GFLOPs), counted from the real tokens at every stage. Up and to the left is better.",
    "speed_up": "Accuracy against the speed-up over the unreduced model: the median of the ratios "
    "of rounds in which both took turns, alone on the device. Up and to the right is better.",
    "latency_ms": "Accuracy against the median time that one image takes, alone on the device. Up "
    "and to the left is better.",
    "peak_memory_mb": "Accuracy against the most memory that a batch needs above weights and "
    "images. Up and to the left is better.",
}
SAME_COST = 0.01
"""A cost that differs by no more than this share says nothing."""
FRONT_IN_WORDS = (
    "The dashed line is the Pareto front: no other cell is as accurate at as little cost. A line "
    "joins the keep rates of a method and capacity; larger markers are larger capacities; every "
    "seed is a marker."
)


def accuracy(findings: ReportContext) -> str:
    """Accuracy against keep rate, for every dataset and capacity."""
    done = evaluated(findings.records)
    if not done:
        return markup.empty(NOTHING_EVALUATED)
    styles = method_styles(findings.records)
    rates = rates_of([record for record in done if record.family != BASELINE] or done)
    views: dict[Key, str] = {}
    whole: dict[str, charts.Figure] = {}
    for setting, cells in by_setting(done).items():
        whole[title(setting)] = charts.accuracy_by_rate(cells, styles, rates)
        plots = {
            family: charts.accuracy_by_rate(cells, styles, rates, lit)
            for family, lit in _families(cells).items()
        }
        panels = [markup.chart(plot, family) for family, plot in plots.items()]
        views[setting] = markup.panels(panels)
    findings.figures.add("accuracy by keep rate", Panels(whole))
    caption = (
        "Accuracy of each cell's best weights against its keep rate, a panel a family of methods, "
        "the other methods grey behind it; the dotted line is the model without reduction. A point "
        "is the mean over seeds, a bar their standard deviation, where there are several. Equal "
        "keep rates are not equal costs: compare at equal cost above and below. "
        f"{_cells_drawn(findings.records)} Computed on all evaluation images: {images_used(done)}."
    )
    charted = markup.figure(markup.views(views, SETTING), caption)
    return legend(findings.records) + charted + of_features(findings)


def _families(cells: Sequence[CellRecord]) -> dict[str, set[str]]:
    """Return the methods of each family with reduction, in the order of families."""
    methods = ordered_methods(cells)
    family_of = {cell.method: cell.family for cell in cells}
    found: dict[str, set[str]] = {}
    for method in methods:
        if family_of[method] != BASELINE:
            found.setdefault(family_of[method], set()).add(method)
    return found or {BASELINE: set(methods)}


def cost(findings: ReportContext) -> str:
    """Accuracy against everything that a cell costs, with the Pareto front."""
    if not evaluated(findings.records):
        return markup.empty(NOTHING_EVALUATED)
    devices: Sequence[str | None] = findings.devices or [None]
    views: dict[Key, str] = {
        (device or "",): "".join(
            _by_cost(findings, evaluated(findings.measured_on(device)), metric, device)
            for metric in charts.COSTS
        )
        for device in devices
    }
    return legend(findings.records) + markup.views(views, ("Measured on",))


def _by_cost(
    findings: ReportContext, done: Sequence[CellRecord], metric: str, device: str | None
) -> str:
    name = charts.COSTS[metric].title
    heading = markup.heading(f"Against {name}")
    known = [record for record in done if record.metrics.get(metric)]
    if not known:
        return heading + markup.empty(NOT_MEASURED)
    costs = [record.metrics[metric] for record in known]
    if max(costs) - min(costs) <= SAME_COST * max(costs):
        return heading + markup.empty(f"The same for all cells: about {costs[0]:.4g}.")
    styles = method_styles(findings.records)
    by_dataset = group(known, "dataset")
    plots = {
        str(dataset): charts.accuracy_by_cost(cells, styles, metric)
        for dataset, cells in by_dataset.items()
    }
    where = f" on {device}" if device and metric != "gmacs" else ""
    shown = findings.figures.shown(f"accuracy by {name}{where}", plots)
    images = f"Computed on all evaluation images: {images_used(known)}."
    caption = f"{COSTS_IN_WORDS[metric]} {FRONT_IN_WORDS} {images}"
    return heading + markup.figure(shown, caption) + _front(by_dataset, metric)


def _front(by_dataset: Mapping[str, Sequence[CellRecord]], metric: str) -> str:
    """The cells on the Pareto fronts, folded."""
    rows = [
        [
            escape(record.dataset),
            escape(record.method),
            escape(record.capacity),
            escape(record.budget),
            str(record.seed),
            markup.number(record.metrics["accuracy"]),
            f"{record.metrics[metric]:.4g}",
        ]
        for cells in by_dataset.values()
        for record in charts.on_front(cells, metric)
    ]
    columns = ("Dataset", "Method", "Capacity", "Keep rate", "Seed", "Accuracy",
               charts.COSTS[metric].unit)  # fmt: skip
    table = markup.table(columns, rows, name="cells on the front", numbers=4)
    return markup.folded(f"The {len(rows)} cells on the front", table)


def _cells_drawn(records: Sequence[CellRecord]) -> str:
    missing = len(records) - len(evaluated(records))
    if not missing:
        return f"All {len(records)} cells are drawn."
    return f"{missing} of {len(records)} cells are not evaluated and missing here; see All cells."
