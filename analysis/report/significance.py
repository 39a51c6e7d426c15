"""The report's sections on ranks and correlations: each takes the findings and returns HTML."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from analysis.aliases import Trace
from analysis.mantel import SIGNED
from analysis.ranking import FEWEST_DATASETS
from analysis.report import markup
from analysis.report.charts import Figure
from analysis.report.figures import Panels
from analysis.report.groups import Key, images_used, title
from analysis.report.report_context import ReportContext
from analysis.report.style import LINE, MethodStyle, method_styles, ordered_methods

SIGNIFICANT = 0.05
"""q values up to this are marked."""
COMPARISONS = {
    "models": "methods, at one rate",
    "rates": "keep rates of a method",
    "capacity": "capacities of a method",
}
_AXES = ("Pairs of", "Dataset", "Capacity", "Keep rate")
_DIVERGING = ("#0072b2", "#f7f7f7", "#d55e00")
_NAMES = {
    "iou_mean": "IoU", "ioa_mean": "IoA", "homogeneity_mean": "homogeneity",
    "completeness_mean": "completeness", "v_measure_mean": "V-measure", "pwcca": "PWCCA distance",
    "mean_cca": "mean CCA", "mean_squared_cca": "mean squared CCA", "cka": "CKA distance",
    "procrustes": "Procrustes distance",
}  # fmt: skip


def ranks(findings: ReportContext) -> str:
    """Average ranks of the methods with the critical difference, over all datasets and for each."""
    table = findings.table("ranks")
    ranked = table.dropna(subset=["average_rank"])
    if ranked.empty:
        return markup.empty("No block of cells is finished for several methods yet.")
    styles = method_styles(findings.records)
    plots = {
        _rank_title(rows): _rank_diagram(rows, styles)
        for _, rows in ranked.groupby("dataset", dropna=False, sort=False)
    }
    findings.figures.add("ranks", Panels(plots))
    shown: dict[Key, str] = {
        (name,): markup.panels([markup.chart(plot, name)]) for name, plot in plots.items()
    }
    caption = (
        "Average rank of each method by accuracy (mean over seeds) within the combinations of "
        "dataset, capacity and keep rate in which all of them are done, averaged within each "
        "dataset first; 1 is the best. "
        f"{_rank_test(ranked)}{_not_ranked(table)} Accuracies are over all evaluation images: "
        f"{images_used(findings.records)}."
    )
    return markup.figure(markup.views(shown, ("Over",)), caption)


def _rank_test(ranked: pd.DataFrame) -> str:
    """Say what may be concluded from the ranks."""
    pooled = ranked[ranked["dataset"].isna()]
    datasets = int(ranked["datasets"].max())
    if pooled["critical_difference"].isna().all():
        counted = "1 dataset is" if datasets == 1 else f"{datasets} datasets are"
        return (
            f"{counted} too few for a test of ranks, which takes {FEWEST_DATASETS}: settings of "
            "one dataset are not independent of each other."
        )
    p = pooled["friedman_p"].iloc[0]
    return (
        f"Over {datasets} datasets Friedman's test has p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
        "; methods within the grey band cannot be told apart from the best one at 5 % (Nemenyi)."
    )


def _not_ranked(table: pd.DataFrame) -> str:
    """Name what is not ranked over all the study, and why."""
    widest = table[table["dataset"].isna()] if table["dataset"].isna().any() else table
    left_out = widest[widest["average_rank"].isna()]
    return "".join(f" {row.method}: {row.note}." for row in left_out.itertuples())


def correlations(findings: ReportContext) -> str:
    """Heat maps of how similarity goes with the difference of accuracies."""
    table = findings.table("correlations")
    known = table[table["outcome"] == SIGNED.words].dropna(subset=["spearman"])
    if known.empty:
        return markup.empty("No group of at least 3 compared pairs yet.")
    methods = ordered_methods(findings.records)
    shown = {
        key: findings.figures.shown(
            f"correlations {title(key)}", {title(key): _correlation_map(rows, methods)}, 60
        )
        for comparison in COMPARISONS
        for key, rows in _views(known.dropna(subset=["method"]), comparison)
    }
    caption = (
        "Does likeness go with accuracy? Spearman's rank correlation of each similarity with "
        "accuracy of A less accuracy of B, over pairs of cells (A, B): a row is a group of pairs, "
        "a column a similarity and the block it is taken after. Blue is negative, orange positive. "
        f"A star marks q of at most {SIGNIFICANT} in a group's own test; of methods at one rate "
        "there is one test for all, in the table. Point at a field for the number of pairs and "
        "Kendall's tau. Similarities are means over all evaluation images: "
        f"{images_used(findings.records)}."
    )
    bar = markup.scale(", ".join(_DIVERGING), "-1", "1")
    return _tests(findings, table) + markup.figure(bar + markup.views(shown, _AXES), caption)


def _tests(findings: ReportContext, table: pd.DataFrame) -> str:
    """Every test, as a table."""
    tested = table.dropna(subset=["spearman_p"]).sort_values("spearman_q", kind="stable")
    rows = [_test_row(row) for row in tested.itertuples()]
    columns = ("Pairs of", "Dataset", "Method", "Similarity", "Accuracy", "Pairs", "rho",
               "95 % interval", "p", "q")  # fmt: skip
    marked = int((tested["spearman_q"] <= SIGNIFICANT).sum())
    of_all = "1 test has" if marked == 1 else f"{marked} tests have"
    caption = (
        f"Of {len(rows)} tests {of_all} q of at most {SIGNIFICANT} (Benjamini and Hochberg): the "
        "p value says in how many orders of the accuracies over the cells the correlation is at "
        "least as strong (Mantel's test), and the interval is over resampled cells, from 6 pairs "
        "on. A - B asks whether the cell that a similarity favours is the better one, abs(A - B) "
        "whether alike cells are alike in accuracy. Of pairs of methods rho is the mean over all "
        f"cells A. Over all evaluation images: {images_used(findings.records)}."
    )
    shown = markup.table(columns, rows, name="tests", numbers=5)
    return markup.figure(shown, caption) if rows else ""


def _test_row(row: Any) -> list[str]:
    low, high = (markup.number(end) for end in (row.spearman_low, row.spearman_high))
    return [
        escape(COMPARISONS[row.comparison]),
        escape(_words(row.dataset) or "all"),
        escape(" ".join(filter(None, (_words(row.method), _words(row.capacity)))) or "all"),
        escape(_measure(row)),
        escape(row.outcome),
        str(row.pairs),
        markup.number(row.spearman),
        markup.MISSING if pd.isna(row.spearman_low) else f"{low} to {high}",
        markup.number(row.spearman_p, ".3g"),
        markup.number(row.spearman_q, ".3g"),
    ]


def _words(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _rank_title(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    where = "all datasets" if pd.isna(first["dataset"]) else str(first["dataset"])
    settings = "1 setting" if first["blocks"] == 1 else f"{first['blocks']} settings"
    return f"{where} ({settings})"


def _rank_diagram(rows: pd.DataFrame, styles: Mapping[str, MethodStyle]) -> Figure:
    rows = rows.sort_values("average_rank")
    best, difference = rows["average_rank"].min(), rows["critical_difference"].iloc[0]
    band = {
        "type": "rect", "xref": "x", "yref": "paper", "x0": best, "y0": 0, "y1": 1,
        "x1": best + difference, "fillcolor": LINE, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip
    traces = [_rank(row, styles[str(row.method)]) for row in rows.itertuples()]
    return {
        "data": traces,
        "layout": {
            "height": 90 + 24 * len(rows),
            "shapes": [] if pd.isna(difference) else [band],
            "xaxis": {"title": {"text": "average rank"}, "range": [0.5, len(rows) + 0.5]},
            "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
        },
    }


def _rank(row: Any, style: MethodStyle) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(row.method),
        "meta": row.method,
        "x": [round(row.average_rank, 4)],
        "y": [escape(row.method)],
        "marker": {"color": style.colour, "symbol": style.symbol, "size": 10},
        "hovertemplate": "average rank %{x:.2f}",
    }


def _views(table: pd.DataFrame, comparison: str) -> Iterator[tuple[Key, pd.DataFrame]]:
    """Divide a comparison's rows into maps that fit a screen: a row a method."""
    rows = table[table["comparison"] == comparison]
    by = ["dataset", "capacity", "keep_rate"] if comparison == "models" else ["dataset"]
    for found, group in rows.groupby(by, sort=False):
        words = [word if isinstance(word, str) else f"{word:g}" for word in found]
        yield (COMPARISONS[comparison], *words, *[""] * (3 - len(words))), group


def _correlation_map(rows: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """A row a group, a column a similarity at a block."""
    several_seeds = rows["seed"].nunique() > 1
    rows = _sorted(rows, "method", methods)
    cells = {(_group(row, several_seeds), _measure(row)): row for row in rows.itertuples()}
    groups = list(dict.fromkeys(group for group, _ in cells))
    by_measure = _sorted(rows.sort_values("block"), "similarity", list(_NAMES))
    measures = list(dict.fromkeys(_measure(row) for row in by_measure.itertuples()))
    fields = [[_field(cells.get((group, measure))) for measure in measures] for group in groups]
    heatmap = {
        "type": "heatmap",
        "x": measures,
        "y": [escape(group) for group in groups],
        "z": [[value for value, _, _ in row] for row in fields],
        "text": [[star for _, star, _ in row] for row in fields],
        "customdata": [[words for _, _, words in row] for row in fields],
        "zmin": -1,
        "zmax": 1,
        "colorscale": [[place / 2, colour] for place, colour in enumerate(_DIVERGING)],
        "showscale": False,
        "texttemplate": "%{text}",
        "hovertemplate": "%{y}<br>%{x}<br>%{customdata}<extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }
    return {
        "data": [heatmap],
        "layout": {
            "height": 190 + 22 * len(groups),
            "meta": {"min_width": 130 + 22 * len(measures)},
            "xaxis": {"type": "category", "showgrid": False, "tickangle": -60},
            "yaxis": {"type": "category", "showgrid": False, "autorange": "reversed"},
        },
    }


def _sorted(rows: pd.DataFrame, column: str, order: Sequence[str]) -> pd.DataFrame:
    return rows.sort_values(column, key=lambda words: words.map(order.index), kind="stable")


def _group(row: Any, several_seeds: bool) -> str:
    capacity = f" · {row.capacity}" if row.comparison == "rates" else ""
    seed = f" · seed {row.seed}" if several_seeds and row.comparison == "models" else ""
    return f"{row.method}{capacity}{seed}"


def _measure(row: Any) -> str:
    return f"{_NAMES[row.similarity]} @ {row.block}"


def _field(row: Any) -> tuple[float | None, str, str]:
    """Return a correlation, its star, and all that is known of it in words."""
    if row is None:
        return None, "", ""
    words = f"rho {row.spearman:.2f}, tau {row.kendall:.2f}, {row.pairs} pairs"
    if not pd.isna(row.spearman_q):
        words += f"<br>p {row.spearman_p:.3g}, q {row.spearman_q:.3g}"
    star = "*" if row.spearman_q <= SIGNIFICANT else ""
    return round(float(row.spearman), 4), star, words
