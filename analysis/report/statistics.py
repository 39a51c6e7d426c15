"""The report's sections on ranks and correlations: each takes the findings and returns HTML."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from analysis.report import markup
from analysis.report.charts import Figure
from analysis.report.findings import Findings
from analysis.report.groups import Key, images_used, title
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


def ranks(findings: Findings) -> str:
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
    caption = (
        "Average rank of each method by accuracy (mean over seeds), over all combinations of "
        "dataset, capacity and keep rate (blocks) in which all of them are done; 1 is the best. "
        "Methods within the grey band cannot be told apart from the best one at 5 % (Nemenyi's "
        "critical difference). A small p (Friedman's test) says that the methods do not all rank "
        f"alike.{_not_ranked(table)} Accuracies are over all evaluation images: "
        f"{images_used(findings.records)}."
    )
    return markup.figure(findings.figures.shown("ranks", plots), caption)


def _not_ranked(table: pd.DataFrame) -> str:
    """Name what is not ranked over all the study, and why."""
    widest = table[table["dataset"].isna()] if table["dataset"].isna().any() else table
    left_out = widest[widest["average_rank"].isna()]
    return "".join(f" {row.method}: {row.note}." for row in left_out.itertuples())


def correlations(findings: Findings) -> str:
    """Heat maps of how similarity goes with the difference of accuracies."""
    known = findings.table("correlations").dropna(subset=["spearman"])
    if known.empty:
        return markup.empty("No group of at least 3 compared pairs yet.")
    methods = ordered_methods(findings.records)
    shown = {
        key: findings.figures.shown(
            f"correlations {title(key)}", {title(key): _correlation_map(rows, methods)}, 60
        )
        for comparison in COMPARISONS
        for key, rows in _views(known, comparison)
    }
    marked = int((known["spearman_q"] <= SIGNIFICANT).sum())
    caption = (
        "Does likeness go with accuracy? Spearman's rank correlation of each similarity with "
        "accuracy of A less accuracy of B, over pairs of cells (A, B): a row is a group of pairs, "
        "a column a similarity and the block it is taken after. Blue is negative, orange positive; "
        f"a star marks q of at most {SIGNIFICANT} after Benjamini and Hochberg over all "
        f"{len(known)} correlations, of which {marked} have one. Point at a field for the "
        "interval, the number of pairs and Kendall's tau. Similarities are means over all "
        f"evaluation images: {images_used(findings.records)}."
    )
    bar = markup.scale(", ".join(_DIVERGING), "-1", "1")
    return markup.figure(bar + markup.views(shown, _AXES), caption)


def _rank_title(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    where = "all datasets" if pd.isna(first["dataset"]) else str(first["dataset"])
    p = first["friedman_p"]
    tested = "" if pd.isna(p) else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    blocks = "1 block" if first["blocks"] == 1 else f"{first['blocks']} blocks"
    return f"{where} ({blocks}{tested})"


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


def _rank(row: Any, style: MethodStyle) -> dict[str, Any]:
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
    words = (
        f"rho {row.spearman:.2f} [{row.spearman_low:.2f}, {row.spearman_high:.2f}], "
        f"q {row.spearman_q:.3f}<br>tau {row.kendall:.2f}, {row.pairs} pairs"
    )
    star = "*" if row.spearman_q <= SIGNIFICANT else ""
    return round(float(row.spearman), 4), star, words
