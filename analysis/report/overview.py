"""The report's sections on the study's cells: each takes the findings and returns HTML."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from statistics import fmean

from analysis.records import CellRecord
from analysis.report import markup
from analysis.report.findings import Findings
from analysis.report.groups import by_setting, evaluated, images_used, title
from analysis.report.performance import NOTHING_EVALUATED
from analysis.report.style import BASELINE

STATES = ("done", "running", "trained", "interrupted", "pending", "recorded", "failed",
          "damaged")  # fmt: skip
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


def cells(findings: Findings) -> str:
    """Every cell with its state, to be sorted and filtered."""
    columns = ("Method", "Dataset", "Capacity", "State", "Keep rate", "Seed", "Epoch", "Accuracy",
               "GMACs", "M params", "Images/s", "MiB", "Tokens", "Data wait")  # fmt: skip
    body = markup.table(
        columns,
        [_row(record) for record in findings.records],
        name="cells",
        numbers=10,
        filters=("Dataset", "Capacity", "Method", "State"),
    )
    caption = (
        "Every cell of the study, also those that failed or are not finished, with the reason; "
        "click a heading to sort. Accuracy is top-1 or mAP, in percent; tokens are the mean live "
        "patch tokens after each reduction stage. Images/s were measured beside whatever else the "
        "device was doing, such as training other cells: compare methods by GMACs, or on a quiet "
        "device. MiB is the peak memory of the GPU. Data wait is the share of the training time in "
        "which the model waited for images. Evaluated on all evaluation images: "
        f"{images_used(evaluated(findings.records))}."
    )
    return markup.figure(body, caption)


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
    settings = by_setting(done)
    rows = [row for setting, cells in settings.items() if (row := _best(title(setting), cells))]
    if not rows:
        return markup.empty(NOTHING_EVALUATED)
    columns = ("Dataset · capacity", "Best method", "Keep rate", "Accuracy", "vs. baseline",
               "GMACs", "vs. baseline")  # fmt: skip
    caption = (
        "The most accurate method and keep rate of every dataset and capacity, and what it loses "
        "and saves against the model without reduction (means over seeds, ± standard deviation). "
        f"Computed on all evaluation images: {images_used(done)}."
    )
    return markup.figure(markup.table(columns, rows, name="best cells", numbers=5), caption)


def _best(name: str, records: Sequence[CellRecord]) -> list[str] | None:
    seeds: dict[tuple[str, float], list[CellRecord]] = {}
    for record in records:
        if record.family != BASELINE:
            seeds.setdefault((record.method, record.keep_rate), []).append(record)
    if not seeds:
        return None
    (method, rate), best = max(seeds.items(), key=lambda item: _accuracy(item[1]))
    base = [record for record in records if record.family == BASELINE]
    macs, base_macs = _macs(best), _macs(base)
    return [
        escape(name),
        escape(method),
        f"{rate:g}",
        markup.mean_std([record.metrics["accuracy"] for record in best]),
        markup.number(_accuracy(best) - _accuracy(base) if base else None, "+.2f"),
        markup.number(macs, ".3g"),
        markup.number(macs / base_macs - 1 if macs and base_macs else None, "+.0%"),
    ]


def _accuracy(records: Sequence[CellRecord]) -> float:
    return fmean(record.metrics["accuracy"] for record in records)


def _macs(records: Sequence[CellRecord]) -> float | None:
    known = [record.metrics["gmacs"] for record in records if record.metrics.get("gmacs")]
    return fmean(known) if known else None


def _row(record: CellRecord) -> list[str]:
    metrics, progress = record.metrics, record.progress
    left = metrics.get("tokens") or {}
    tokens = " · ".join(f"{left[str(b)]:.3g}" for b in record.stages if str(b) in left)
    known = progress.get("epoch") is not None
    epoch = f"{progress['epoch']}/{progress['epochs']}" if known else markup.MISSING
    parameters = metrics.get("parameters")
    return [
        escape(record.method),
        escape(record.dataset),
        escape(record.capacity),
        _state(record),
        f"{record.keep_rate:g}",
        str(record.seed),
        epoch,
        markup.number(metrics.get("accuracy")),
        markup.number(metrics.get("gmacs"), ".3g"),
        markup.number(parameters and parameters / 1e6, ".3g"),
        markup.number(metrics.get("images_per_second"), ".0f"),
        markup.number(metrics.get("peak_memory_mb"), ".0f"),
        tokens or markup.MISSING,
        markup.number(progress.get("data_wait"), ".0%"),
    ]


def _state(record: CellRecord) -> str:
    state = escape(record.state)
    told = (record.error, record.note, _gentler(record), _imported(record))
    notes = "; ".join(filter(None, told))
    note = f'<div class="note">{escape(notes)}</div>' if notes else ""
    return f'<span class="state {state}">{state}</span>{note}'


def _imported(record: CellRecord) -> str:
    if record.imported is None:
        return ""
    reached = record.progress.get("imported_accuracy")
    return f"imported from {record.imported}, which reached {markup.number(reached)} %"


def _gentler(record: CellRecord) -> str:
    if not record.progress.get("gentler"):
        return ""
    ended = record.progress["not_finite"]
    attempts = "1 attempt that was" if ended == 1 else f"{ended} attempts that were"
    return f"trained more gently after {attempts} not finite: {record.progress['gentler']}"
