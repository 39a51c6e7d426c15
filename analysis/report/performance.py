"""The report's sections on accuracy and cost: each takes the findings and returns HTML."""

from collections.abc import Mapping, Sequence
from html import escape

from analysis.records import CellRecord
from analysis.report import charts, markup
from analysis.report.findings import Findings
from analysis.report.groups import by_setting, evaluated, group, images_used, rates_of, title
from analysis.report.style import BASELINE, legend, method_styles

NOTHING_EVALUATED = "No cell has been evaluated yet."
COSTS_IN_WORDS = {
    "gmacs": "Accuracy against the multiply-accumulate operations of an image (what papers call "
    "GFLOPs), counted from the real tokens at every stage. Up and to the left is better.",
    "images_per_second": "Accuracy against measured throughput: the median of repeated batches on "
    "the device the cell was evaluated on, beside whatever else ran there. Up and to the right is "
    "better.",
    "parameters": "Accuracy against the parameters of the reduced model. Reduction saves none; "
    "some methods bring their own. Up and to the left is better.",
    "peak_memory_mb": "Accuracy against the most memory that the GPU needed for a batch of the "
    "throughput's measurement. Up and to the left is better.",
}
FRONT_IN_WORDS = (
    "The dashed line is the Pareto front: no other cell is as accurate at as little cost. A line "
    "joins the keep rates of a method and capacity; larger markers are larger capacities; every "
    "seed is a marker."
)


def accuracy(findings: Findings) -> str:
    """Accuracy against keep rate, for every dataset and capacity."""
    done = evaluated(findings.records)
    if not done:
        return markup.empty(NOTHING_EVALUATED)
    styles = method_styles(findings.records)
    rates = rates_of([record for record in done if record.family != BASELINE] or done)
    plots = {
        title(setting): charts.accuracy_by_rate(cells, styles, rates)
        for setting, cells in by_setting(done).items()
    }
    caption = (
        "Accuracy of each cell's best weights against its keep rate; the dotted line is the model "
        "without reduction. Read off how much each method loses as fewer tokens are kept. A point "
        "is the mean over seeds, a bar their standard deviation, where there are several. "
        f"{_cells_drawn(findings.records)} Computed on all evaluation images: {images_used(done)}."
    )
    shown = findings.figures.shown("accuracy by keep rate", plots)
    return legend(findings.records) + markup.figure(shown, caption)


def cost(findings: Findings) -> str:
    """Accuracy against everything that a cell costs, with the Pareto front."""
    done = evaluated(findings.records)
    if not done:
        return markup.empty(NOTHING_EVALUATED)
    figures = "".join(_by_cost(findings, done, metric) for metric in charts.COSTS)
    return legend(findings.records) + figures


def _by_cost(findings: Findings, done: Sequence[CellRecord], metric: str) -> str:
    name = charts.COSTS[metric].title
    heading = markup.heading(f"Against {name}")
    known = [record for record in done if record.metrics.get(metric)]
    if not known:
        return heading + markup.empty("Not measured: only cells evaluated on a GPU have this.")
    styles = method_styles(findings.records)
    by_dataset = group(known, "dataset")
    plots = {
        str(dataset): charts.accuracy_by_cost(cells, styles, metric)
        for dataset, cells in by_dataset.items()
    }
    shown = findings.figures.shown(f"accuracy by {name}", plots)
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
            f"{record.keep_rate:g}",
            str(record.seed),
            markup.number(record.metrics["accuracy"]),
            f"{charts.COSTS[metric].of(record, metric):.4g}",
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
