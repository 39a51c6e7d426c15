"""The report's sections on the study's cells: each takes the findings and returns HTML."""

from collections import Counter
from html import escape

from analysis.records import CellRecord
from analysis.report import markup
from analysis.report.first_screen import answers
from analysis.report.groups import evaluated, images_used
from analysis.report.report_context import ReportContext

STATES = ("done", "running", "trained", "interrupted", "pending", "recorded", "failed",
          "damaged")  # fmt: skip
"""Order of the states in the summary; others follow."""


def summary(findings: ReportContext) -> str:
    """What budgets buy in every setting, then how far the study is."""
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
    return answers(findings) + markup.heading("Progress") + head


def cells(findings: ReportContext) -> str:
    """Every cell with its state, to be sorted and filtered."""
    columns = ("Method", "Dataset", "Capacity", "State", "Keep rate", "Seed", "Epoch", "Accuracy",
               "95 % from", "to", "GMACs", "M params", "Speed-up", "Images/s", "ms", "MiB",
               "Tokens", "Data wait")  # fmt: skip
    shown = findings.measured_on(next(iter(findings.devices), None))
    body = markup.table(
        columns,
        [_row(record, findings.intervals.get(record.cell_id)) for record in shown],
        name="cells",
        numbers=14,
        filters=("Dataset", "Capacity", "Method", "State"),
    )
    caption = (
        "Every cell of the study, also those that failed or are not finished, with the reason; "
        "click a heading to sort. Accuracy is top-1 or mAP, in percent; tokens are the mean live "
        "patch tokens after each reduction stage. Speed-up, images/s, milliseconds for one image "
        "and MiB are measured alone on the study's main device, and missing until then. Data wait "
        "is the share of the training time in which the model waited for images. Evaluated on all "
        "evaluation images: "
        f"{images_used(evaluated(findings.records))}."
    )
    return markup.figure(body, caption)


def provenance(findings: ReportContext) -> str:
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


def _row(record: CellRecord, interval: tuple[float, float] | None) -> list[str]:
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
        escape(record.budget),
        str(record.seed),
        epoch,
        markup.number(metrics.get("accuracy")),
        *(markup.number(end) for end in interval or (None, None)),
        markup.number(metrics.get("gmacs"), ".3g"),
        markup.number(parameters and parameters / 1e6, ".3g"),
        markup.number(metrics.get("speed_up")),
        markup.number(metrics.get("images_per_second"), ".0f"),
        markup.number(metrics.get("latency_ms"), ".3g"),
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
