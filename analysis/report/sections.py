"""The report's sections on results: each takes the findings and returns HTML."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from statistics import fmean

from analysis.records import CellRecord
from analysis.report import charts, markup
from analysis.report.findings import Findings
from analysis.report.groups import by_setting, evaluated, group, images_used, rates_of
from analysis.report.style import BASELINE, legend, method_styles

COSTS_IN_WORDS = {
    "gmacs": "The same accuracies against the multiply-accumulate operations of an image (what "
    "papers call GFLOPs), counted from the real tokens at every stage. Up and to the left is "
    "better; the dashed line is the Pareto front: no other cell is as accurate at as little cost. "
    "A line joins the keep rates of a method and capacity; larger markers are larger capacities.",
    "images_per_second": "The same accuracies against measured throughput. Up and to the right is "
    "better. Throughput was measured on the device the cell was evaluated on, beside whatever else "
    "ran there.",
}
NOTHING_EVALUATED = "No cell has been evaluated yet."
STATES = ("done", "running", "trained", "interrupted", "pending", "failed", "damaged")
"""Order of the states in the summary; others follow."""


def summary(findings: Findings) -> str:
    """Cells by state, and the best cell of every dataset and capacity."""
    records = findings.records
    counts = Counter(record.state for record in records)
    states = [state for state in STATES if counts[state]]
    states += sorted(set(counts) - set(states))
    tiles = "".join(
        f'<div class="tile"><b>{counts[state]}</b><i class="state {escape(state)}">'
        f"{escape(state)}</i></div>"
        for state in states
    )
    bar = "".join(
        f'<span class="state {escape(state)}" style="flex:{counts[state]}"></span>'
        for state in states
    )
    total = f'<div class="tile"><b>{len(records)}</b>cells</div>'
    head = f'<div class="tiles">{total}{tiles}</div><div class="bar" aria-hidden="true">{bar}</div>'
    return head + _best_cells(evaluated(records))


def accuracy(findings: Findings) -> str:
    """Accuracy against keep rate, cost and throughput."""
    records, figures = findings.records, findings.figures
    done = evaluated(records)
    if not done:
        return markup.empty(NOTHING_EVALUATED)
    styles = method_styles(records)
    rates = rates_of([record for record in done if record.family != BASELINE] or done)
    by_rate = {
        title: charts.accuracy_by_rate(cells, styles, rates)
        for title, cells in by_setting(done).items()
    }
    images = f"Computed on all evaluation images: {images_used(done)}."
    content = f'<div class="legend" title="Click to hide or show">{legend(records)}</div>'
    content += markup.figure(
        figures.shown("accuracy by keep rate", by_rate),
        "Accuracy of each cell's best weights against its keep rate; the dotted line is the "
        "model without reduction. Read off how much each method loses as fewer tokens are "
        f"kept. A point is the mean over seeds, a bar their range. {images}",
    )
    for cost, words in COSTS_IN_WORDS.items():
        by_cost = {
            str(dataset): charts.accuracy_by_cost(cells, styles, cost)
            for dataset, cells in group(done, "dataset").items()
        }
        shown = figures.shown(f"accuracy by {charts.COSTS[cost].title}", by_cost)
        content += markup.figure(shown, f"{words} {images}")
    return content


def cells(findings: Findings) -> str:
    """Every cell with its state, to be sorted and filtered."""
    records = findings.records
    columns = ("Dataset", "Capacity", "Method", "State", "Note", "Keep rate", "Seed", "Epoch",
               "Accuracy", "GMACs", "Tokens", "Images/s", "Data wait")  # fmt: skip
    states = "".join(
        f"<option>{escape(state)}</option>" for state in sorted({r.state for r in records})
    )
    controls = (
        '<div class="controls"><label>Filter <input type="search" placeholder="e.g. tiny topk">'
        f'</label><label>State <select><option value="">all</option>{states}</select></label>'
        '<output aria-live="polite"></output></div>'
    )
    body = markup.table(columns, [_row(record) for record in records], name="cells", numbers=8)
    caption = (
        "Every cell of the study, also those that failed or are not finished; click a heading to "
        "sort. Accuracy is top-1 or mAP, in percent; tokens are the mean live patch tokens after "
        "each reduction stage. Images/s were measured beside whatever else the device was doing, "
        "such as training other cells: compare methods by GMACs, or on a quiet device. Data wait "
        "is the share of the training time in which the model waited for images."
    )
    return controls + markup.figure(body, caption)


def provenance(findings: Findings) -> str:
    """Where the numbers come from."""
    metrics = [record.metrics for record in findings.records]
    chosen = sorted({str(m["select_on"]) for m in metrics if "select_on" in m})
    meaning = {
        "val": "val (the reported split, as in the published study)",
        "holdout": "holdout (a part of the training split)",
    }
    selected = "; ".join(meaning.get(split, split) for split in chosen)
    shown = {**findings.provenance, **({"best epoch chosen on": selected} if selected else {})}
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in shown.items())
    return f"<dl>{items}</dl>"


def _best_cells(done: Sequence[CellRecord]) -> str:
    rows = [row for title, cells in by_setting(done).items() if (row := _best(title, cells))]
    if not rows:
        return markup.empty(NOTHING_EVALUATED)
    columns = ("Dataset · capacity", "Best method", "Keep rate", "Accuracy", "vs. baseline",
               "GMACs", "vs. baseline")  # fmt: skip
    caption = (
        "The most accurate cell with reduction of every dataset and capacity, and what it loses "
        "and saves against the model without reduction (mean over its seeds). "
        f"Computed on all evaluation images: {images_used(done)}."
    )
    return markup.figure(markup.table(columns, rows, name="best", numbers=5), caption)


def _best(title: str, records: Sequence[CellRecord]) -> list[str] | None:
    reduced = [record for record in records if record.family != BASELINE]
    if not reduced:
        return None
    best = max(reduced, key=lambda record: record.metrics["accuracy"])
    base = [record.metrics for record in records if record.family == BASELINE]
    base_macs = [metrics["gmacs"] for metrics in base if metrics.get("gmacs")]
    value, macs = best.metrics["accuracy"], best.metrics.get("gmacs")
    lost = value - fmean(metrics["accuracy"] for metrics in base) if base else None
    saved = 100 * (macs / fmean(base_macs) - 1) if base_macs and macs is not None else None
    return [
        escape(title),
        escape(best.method),
        f"{best.keep_rate:g}",
        markup.number(value),
        markup.number(lost, "+.2f"),
        markup.number(macs, ".3g"),
        markup.MISSING if saved is None else f"{saved:+.0f} %",
    ]


def _row(record: CellRecord) -> list[str]:
    metrics, progress = record.metrics, record.progress
    left = metrics.get("tokens") or {}
    tokens = " · ".join(f"{left[str(b)]:.4g}" for b in record.stages if str(b) in left)
    state = escape(record.state)
    notes = filter(None, (record.error, _gentler(record)))
    epoch = f"{progress['epoch']}/{progress['epochs']}" if "epoch" in progress else markup.MISSING
    return [
        escape(record.dataset),
        escape(record.capacity),
        escape(record.method),
        f'<span class="state {state}">{state}</span>',
        f'<div class="note">{escape("; ".join(notes))}</div>',
        f"{record.keep_rate:g}",
        str(record.seed),
        epoch,
        markup.number(metrics.get("accuracy")),
        markup.number(metrics.get("gmacs"), ".3g"),
        tokens or markup.MISSING,
        markup.number(metrics.get("images_per_second"), ".0f"),
        markup.number(progress.get("data_wait"), ".0%"),
    ]


def _gentler(record: CellRecord) -> str:
    if not record.progress.get("gentler"):
        return ""
    ended = record.progress["not_finite"]
    attempts = "1 attempt that was" if ended == 1 else f"{ended} attempts that were"
    return f"trained more gently after {attempts} not finite: {record.progress['gentler']}"
