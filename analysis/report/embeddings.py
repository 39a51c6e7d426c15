"""The report's part on pooled features: how like those of the unreduced host they are."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise

from analysis.aliases import Row
from analysis.records import CellRecord, asked_for
from analysis.report import markup
from analysis.report.groups import by_setting, evaluated, images_used, title
from analysis.report.report_context import ReportContext
from analysis.report.style import BASELINE

METRIC = "cosine"
SCORE_IN_WORDS = (
    "Accuracy here is 100 times the mean cosine of an image's pooled feature to the one that the "
    "unreduced host gives it: 100 is no change."
)
COLUMNS = ("Method", "Setting", "Budget", "Cosine, mean", "Cosine, 5th percentile",
           "Same neighbours, %", "k-NN, %", "Speed-up", "Tokens left")  # fmt: skip
SLACK = 1e-6
"""A cosine x 100 that falls by no more is as high."""


def without_labels(records: Sequence[CellRecord]) -> bool:
    """Tell whether cells have been evaluated on images that have no labels."""
    done = evaluated(records)
    return bool(done) and not any(
        record.metrics.get("metric") != METRIC or "knn" in record.metrics for record in done
    )


def of_features(findings: ReportContext) -> str:
    """Return a table of all numbers of features, and where more budget does not help; or nothing.

    Only where the study has cells of the task `embedding`.
    """
    shown = findings.measured_on(next(iter(findings.devices), None))
    done = [record for record in evaluated(shown) if record.metrics.get("metric") == METRIC]
    if not done:
        return ""
    known = {str(row["cell_id"]): row for row in _own(findings)}
    rows = [_row(record, known.get(record.cell_id, {})) for record in done]
    table = markup.table(COLUMNS, rows, name="features", numbers=6)
    caption = (
        f"{SCORE_IN_WORDS} Same neighbours: the share of an image's 10 nearest other images (by "
        "cosine, among the evaluated ones) that are its nearest for the unreduced host, too. k-NN: "
        "images whose label is that of most of these 10; on single images, that label is the "
        "answer. In brackets: 95 % interval over images. Speed-up: measured alone. Computed on all "
        f"evaluation images: {images_used(done)}."
    )
    order = f'<p class="conditions">{escape(monotone_in_words(done))}</p>'
    return markup.heading("Features") + markup.figure(table + order, caption)


def monotone_in_words(records: Sequence[CellRecord]) -> str:
    """Say whether the features of every method come closer with every larger budget.

    Args:
        records: Evaluated cells of the task `embedding`.
    """
    found = [words for cells in by_setting(records).values() for words in _falls(cells)]
    if not found:
        return "With more tokens the mean cosine of every method rises, or stays."
    return f"With more tokens the mean cosine of every method rises, but for: {'; '.join(found)}."


def _falls(cells: Sequence[CellRecord]) -> Iterator[str]:
    """Yield where a setting's method has a lower cosine at a larger budget."""
    lines: dict[tuple[str, int], list[CellRecord]] = {}
    for cell in sorted(cells, key=lambda cell: cell.keep_rate):
        lines.setdefault((cell.method, cell.seed), []).append(cell)
    for (method, _), line in lines.items():
        for less, more in pairwise(line):
            if more.metrics["accuracy"] < less.metrics["accuracy"] - SLACK:
                where = title(next(iter(by_setting([more]))))
                yield (
                    f"{method} on {where}, {less.metrics['accuracy']:.2f} at {less.budget} and "
                    f"{more.metrics['accuracy']:.2f} at {more.budget}{_cap_in_words(less)}"
                )


def _cap_in_words(record: CellRecord) -> str:
    """Say where a cell has more tokens left than were asked for."""
    capped = record.metrics.get("capped")
    if not capped:
        return ""
    left = record.metrics["tokens"]
    told = ", ".join(f"{left[b]:.3g} for {asked:g} after block {b}" for b, asked in capped.items())
    return f" (it removes no more tokens at a block at {record.budget}: it leaves {told})"


def _own(findings: ReportContext) -> list[Row]:
    results = findings.table("results")
    own = results[results["eval_keep_rate"] == results["keep_rate"]]
    return [{str(name): value for name, value in row.items()} for row in own.to_dict("records")]


def _row(record: CellRecord, known: Row) -> list[str]:
    metrics = record.metrics
    tokens = metrics.get("tokens") or {}
    left = " · ".join(f"{tokens[str(b)]:.3g}" for b in record.stages if str(b) in tokens)
    budget = "unreduced" if record.family == BASELINE else asked_for(record.budget)
    setting = title(next(iter(by_setting([record]))))
    return [
        escape(record.method),
        escape(f"{setting}, seed {record.seed}"),
        escape(budget),
        _with_interval(metrics, known, "accuracy"),
        _with_interval(metrics, known, "cosine_p5"),
        _with_interval(metrics, known, "neighbours"),
        _with_interval(metrics, known, "knn"),
        markup.number(metrics.get("speed_up")),
        escape(left + (" (capped)" if metrics.get("capped") else "")) or markup.MISSING,
    ]


def _with_interval(metrics: Mapping[str, float | None], known: Row, name: str) -> str:
    if metrics.get(name) is None:
        return markup.MISSING
    low, high = (known.get(f"{name}_{end}") for end in ("low", "high"))
    ends = "" if low is None or low != low else f" [{low:.2f}, {high:.2f}]"
    return f"{metrics[name]:.2f}{ends}"
