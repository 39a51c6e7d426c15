"""The report's section on how alike the token-depth maps of two cells are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from analysis.records import CellRecord
from analysis.report import markup, matrices
from analysis.report.figures import Panels
from analysis.report.groups import (
    AT_RATE,
    SETTING,
    Key,
    at_each_rate,
    by_setting,
    images_used,
    title,
)
from analysis.report.matrices import Scale
from analysis.report.report_context import ReportContext
from analysis.report.style import BASELINE, ordered_methods


class _MapMeasure(NamedTuple):
    """A metric of two maps."""

    columns: tuple[str, str]
    """Columns of (A, B) and of (B, A)."""
    is_distance: bool
    form: str
    words: str


_MEASURES = {
    "Jensen-Shannon divergence": _MapMeasure(("jsd", "jsd"), True, ".3f", "bits, from 0 to 1"),
    "earth mover's distance": _MapMeasure(
        ("emd", "emd"), True, ".2f", "mean way in patches that turns one map into the other"
    ),
    "Kullback-Leibler divergence": _MapMeasure(
        ("kl_ab", "kl_ba"), True, ".3f", "of B from A, bits, without bound"
    ),
    "Pearson correlation": _MapMeasure(("pcc", "pcc"), False, ".2f", "over the patches, -1 to 1"),
    "Spearman correlation": _MapMeasure(("scc", "scc"), False, ".2f", "over the patches, -1 to 1"),
    "SIM": _MapMeasure(("sim", "sim"), False, ".2f", "what the maps have in common, from 0 to 1"),
}
_IN_FILES = "Jensen-Shannon divergence"
"""The others are in the page and the tables: files of all take minutes to draw."""


class _Part(NamedTuple):
    """A figure: what its matrices compare."""

    comparison: str
    side: str
    """What A and B differ in, a pair of columns."""
    axes: tuple[str, ...]
    """What is shown apart."""
    heading: str
    what: str


_PARTS = (
    _Part("datasets", "dataset", ("Capacity", "Blocks", "Keep rate"), "Dataset to dataset",
          "the same method, capacity and keep rate on two datasets"),
    _Part("models", "method", AT_RATE, "Method to method, within a dataset",
          "two methods at the same keep rate"),
    _Part("rates", "keep_rate", SETTING, "Keep rate to keep rate, within a dataset",
          "two keep rates of a method"),
    _Part("capacity", "capacity", ("Dataset", "Blocks", "Keep rate"),
          "Capacity to capacity, within a dataset", "two capacities of a method"),
)  # fmt: skip


def compared(findings: ReportContext) -> str:
    """Matrices of how alike depth maps are, across datasets and within one."""
    budgets = {record.cell_id: record.budget for record in findings.records}
    table = findings.table("heatmaps").rename(columns={"dataset": "dataset_a"})
    reduced = (table["family_a"] != BASELINE) & (table["family_b"] != BASELINE)
    rows = table[reduced].assign(
        **{f"keep_rate_{side}": table[f"cell_{side}"].map(budgets) for side in "ab"}
    )
    scales = {
        name: Scale.fit(
            rows[list(measure.columns)].to_numpy(),
            is_distance=measure.is_distance,
            form=measure.form,
        )
        for name, measure in _MEASURES.items()
    }
    figures = "".join(_figure(findings, part, rows, scales) for part in _PARTS)
    return figures or markup.empty("No two cells whose methods drop patches are compared yet.")


def _figure(
    findings: ReportContext, part: _Part, rows: pd.DataFrame, scales: Mapping[str, Scale]
) -> str:
    rows = rows[rows["comparison"] == part.comparison]
    groups = {
        key: _panels(findings.records, part, key, inside)
        for key, inside in _groups(findings.records, part, rows)
    }
    if not groups:
        return ""
    shown = {
        (name, *key): scale.html(f"({_MEASURES[name].words})")
        + _shown(findings, part, (name, *key), panels, scale)
        for name, scale in scales.items()
        for key, panels in groups.items()
    }
    caption = (
        f"How alike the token-depth maps are of {part.what}: yellow is alike. Rows are A, "
        "columns B; several seeds are averaged; a field is blank where the measure is not defined. "
        "A measure's colours mean the same in all these figures. A map is the mean over all "
        f"evaluation images: {images_used(findings.records)}."
    )
    body = markup.figure(markup.views(shown, ("Measure", *part.axes)), caption)
    return markup.part(part.heading, body, is_open=part.comparison == "models")


def _groups(
    records: Sequence[CellRecord], part: _Part, rows: pd.DataFrame
) -> Iterator[tuple[Key, pd.DataFrame]]:
    """Yield the rows of every view of a figure, under the words of its axes."""
    if part.axes == AT_RATE:
        yield from ((key, inside) for key, inside in at_each_rate(records, rows) if len(inside))
        return
    words = {
        record.cell_id: dict(zip(AT_RATE, (*setting, record.budget), strict=True))
        for setting, cells in by_setting(records).items()
        for record in cells
    }
    rows = rows[rows["cell_a"].isin(words.keys()) & rows["cell_b"].isin(words.keys())]
    keys = [tuple(words[cell][axis] for axis in part.axes) for cell in rows["cell_a"]]
    for key in dict.fromkeys(keys):
        yield key, rows[[other == key for other in keys]]


def _panels(
    records: Sequence[CellRecord], part: _Part, key: Key, rows: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Divide rows into one matrix of all methods, or one for each method."""
    if part.side == "method":
        return {title(key): rows}
    of_methods = {str(method): mine for method, mine in rows.groupby("method_a", sort=False)}
    return {
        method: of_methods[method] for method in ordered_methods(records) if method in of_methods
    }


def _shown(
    findings: ReportContext, part: _Part, key: Key, panels: Mapping[str, pd.DataFrame], scale: Scale
) -> str:
    names, measure = _names(findings.records, part.side), _MEASURES[key[0]]
    plots = {
        name: matrices.matrix(_both_ways(rows, part.side, measure), names, scale)
        for name, rows in panels.items()
    }
    if key[0] == _IN_FILES:
        findings.figures.add(f"depth maps by {part.side} {title(key[1:])}", Panels(plots))
    charts = [markup.chart(plot, name) for name, plot in plots.items()]
    return markup.panels(charts, matrices.width(plots))


def _both_ways(
    rows: pd.DataFrame, side: str, measure: _MapMeasure
) -> Mapping[tuple[str, str], float]:
    """Values of (A, B) and of (B, A), for the table has every pair once."""
    ab, ba = (matrices.means(rows, side, column) for column in measure.columns)
    return {(b, a): value for (a, b), value in ba.items()} | ab


def _names(records: Sequence[CellRecord], side: str) -> list[str]:
    if side == "method":
        return ordered_methods(records)
    if side == "keep_rate":
        by_rate = sorted(records, key=lambda record: record.keep_rate)
        return list(dict.fromkeys(record.budget for record in by_rate))
    return list(dict.fromkeys(getattr(record, side) for record in records))
