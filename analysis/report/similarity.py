"""The report's sections on reduction patterns: each takes the findings and returns HTML."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.records import CellRecord, asked_for, rate_in_words
from analysis.report import charts, markup, matrices, pixels
from analysis.report.charts import Figure
from analysis.report.figures import Panels
from analysis.report.groups import (
    AT_RATE,
    SETTING,
    at_each_rate,
    by_setting,
    images_used,
    rates_of,
    title,
)
from analysis.report.matrices import Scale
from analysis.report.report_context import ReportContext
from analysis.report.style import BASELINE, legend, method_styles, ordered_methods

NOTHING_COMPARED = "No two cells have been compared yet."


def token_depth(findings: ReportContext) -> str:
    """Token-depth maps, methods down and keep rates across."""
    maps = _maps(findings.table("depth_maps"))
    mapped = [r for r in findings.records if r.cell_id in maps and r.family != BASELINE]
    if not mapped:
        return markup.empty("No cell whose method drops patches has been evaluated yet.")
    values = [maps[record.cell_id] for record in mapped]
    low, high = min(m.min() for m in values), max(m.max() for m in values)
    high = max(high, low + 1)  # All constant: any scale will do.
    settings = {}
    for setting, cells in by_setting(mapped).items():
        grid = _mean_maps(cells, maps)
        settings[setting] = _map_grid(grid, low, high)
        drawn = {f"{m} at {b}": matrices.depth_map(v, low, high) for (m, b), v in grid.items()}
        findings.figures.add(f"token depth {title(setting)}", Panels(drawn))
    scale = markup.scale(pixels.CSS_GRADIENT, f"block {low:.1f}", f"{high:.1f}: kept longest")
    caption = (
        "How deep every patch of the grid lives: the mean, over images, of the block at which it "
        "was dropped (the number of blocks if it never was). Yellow patches are kept longest. "
        "Under a map: keep rate, and mean depth over the grid, in blocks; several seeds are "
        "averaged. Methods that only merge have no depth. "
        f"Computed on all evaluation images: {images_used(mapped)}."
    )
    return markup.figure(scale + markup.views(settings, SETTING), caption)


class _Measure(NamedTuple):
    """A matrix of the similarity section."""

    table: str
    place: str
    value: str
    chance: str | None
    """Column of what chance alone would give; None: of a distance, which has none."""
    title: str
    caption: str


_ABOVE_CHANCE = (
    "The colour is what is above chance, as a share of what could be: dark where {} are as alike, "
    "yellow for 1."
)
_MEASURES = (
    _Measure(
        "pruning", "stage", "iou_mean", "iou_chance", "Kept patches: IoU",
        "Intersection over union of the patches two pruning methods keep in the same image, mean "
        "over images; 1 is the same patches. "
        + _ABOVE_CHANCE.format("random sets of as many patches"),
    ),
    _Measure(
        "merging", "stage", "v_measure_mean", "v_measure_chance",
        "Groups of patches: V-measure",
        "V-measure of the groups two merging methods make of the same image, mean over images; 1 "
        "is the same groups. " + _ABOVE_CHANCE.format("random groups of as many patches"),
    ),
    _Measure(
        "features", "block", "cka", None,
        "CLS features at the last block: linear CKA distance",
        "Linear CKA distance of the CLS features after the last block; 0 (yellow) is the same "
        "up to rotation and scale.",
    ),
)  # fmt: skip


def similarity(findings: ReportContext) -> str:
    """Matrices of how alike methods are at the same keep rate."""
    parts = [_matrices(findings, measure) for measure in _MEASURES]
    parts.append(_distance_by_depth(findings))
    return "".join(parts) or markup.empty(NOTHING_COMPARED)


def _matrices(findings: ReportContext, measure: _Measure) -> str:
    table = findings.table(measure.table)
    rows = table[(table["comparison"] == "models") & table[measure.value].notna()]
    methods = ordered_methods(findings.records)
    scale = Scale.above_chance()
    if measure.chance is None:
        scale = Scale.fit(rows[[measure.value]].to_numpy(), is_distance=True)
    found = {}
    for key, inside in at_each_rate(findings.records, rows):
        if plots := _panels(inside, measure, methods, scale):
            name = f"{measure.value} {title(key)}"
            found[key] = findings.figures.shown(name, plots, matrices.width(plots))
    if not found:
        return ""
    caption = (
        f"{measure.caption} Rows are A, columns B; several seeds are averaged. {_computed(rows)}"
    )
    bar = scale.html("above chance" if measure.chance else "")
    body = bar + markup.views(found, AT_RATE)
    is_first = measure is _MEASURES[0]
    return markup.part(measure.title, markup.figure(body, caption), is_open=is_first)


def _distance_by_depth(findings: ReportContext) -> str:
    """How far each method's features are from those of the unreduced model, block by block."""
    table = findings.table("features")
    baselines = {record.cell_id for record in findings.records if record.family == BASELINE}
    rows = table[table["cell_b"].isin(baselines) & (table["comparison"] == "models")]
    styles = method_styles(findings.records)
    found = {}
    for key, inside in at_each_rate(findings.records, rows):
        if lines := _lines(inside):
            plot = charts.by_block(lines, styles, "linear CKA distance")
            name = f"cka by block {title(key)}"
            found[key] = findings.figures.shown(name, {title(key): plot}, 32)
    if not found:
        return ""
    caption = (
        "Linear CKA distance of each method's CLS features from those of the model without "
        "reduction, after each reduction stage and the last block; 0 is the same up to rotation "
        "and scale. A point is the mean over seeds, a bar their standard deviation, where there "
        f"are several. {_computed(rows)}"
    )
    body = legend(findings.records) + markup.views(found, AT_RATE)
    title_of_part = "Distance from the unreduced model, block by block"
    return markup.part(title_of_part, markup.figure(body, caption), is_open=False)


def _computed(rows: pd.DataFrame) -> str:
    counts = rows.groupby("dataset", sort=False)["images"].unique()
    images = "; ".join(f"{', '.join(map(str, n))} ({dataset})" for dataset, n in counts.items())
    return f"Computed on all evaluation images: {images}."


def _lines(rows: pd.DataFrame) -> dict[str, dict[int, list[float]]]:
    """Distances of all seeds, by method and block."""
    lines: dict[str, dict[int, list[float]]] = {}
    for row in rows.dropna(subset=["cka"]).itertuples():
        lines.setdefault(str(row.method_a), {}).setdefault(row.block, []).append(row.cka)  # type: ignore[arg-type]
    return lines


def _panels(
    rows: pd.DataFrame, measure: _Measure, methods: Sequence[str], scale: Scale
) -> dict[str, Figure]:
    """One matrix for every stage; of features only the last block's."""
    places = sorted(rows[measure.place].unique())
    if measure.place == "block":
        places = places[-1:]
    return {
        f"after block {place}": _matrix(rows[rows[measure.place] == place], measure, methods, scale)
        for place in places
    }


def _matrix(rows: pd.DataFrame, measure: _Measure, methods: Sequence[str], scale: Scale) -> Figure:
    values = matrices.means(rows, "method", measure.value)
    if measure.chance is None:
        return matrices.matrix(values, methods, scale)
    chance = matrices.means(rows, "method", measure.chance)
    return matrices.matrix(values, methods, scale, matrices.above_chance(values, chance))


def _maps(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Mean depth maps by cell id, each [rows, columns]."""
    return {
        str(cell): rows.pivot(index="row", columns="column", values="depth_mean").to_numpy()
        for cell, rows in table.groupby("cell_id")
    }


def _mean_maps(
    cells: Sequence[CellRecord], maps: Mapping[str, np.ndarray]
) -> dict[tuple[str, str], np.ndarray]:
    """Maps by method and budget, the mean over seeds."""
    found = {}
    for method in ordered_methods(cells):
        mine = [cell for cell in cells if cell.method == method]
        for rate in rates_of(mine):
            seeds = [maps[cell.cell_id] for cell in mine if cell.keep_rate == rate]
            found[method, rate_in_words(mine, rate)] = np.mean(seeds, axis=0)
    return found


def _map_grid(maps: Mapping[tuple[str, str], np.ndarray], low: float, high: float) -> str:
    """Small maps of every method at each of its keep rates."""
    blocks = []
    for method in dict.fromkeys(method for method, _ in maps):
        row = "".join(
            _map(values, method, budget, low, high)
            for (of, budget), values in maps.items()
            if of == method
        )
        name = escape(method)
        blocks.append(f'<div data-of="{name}"><p class="title">{name}</p><div>{row}</div></div>')
    return f'<div class="maps">{"".join(blocks)}</div>'


def _map(values: np.ndarray, method: str, budget: str, low: float, high: float) -> str:
    mean = values.mean()
    text = escape(f"{method} at {asked_for(budget)}: mean depth {mean:.2f}")
    uri = pixels.heat_map_uri(values, low, high)
    image = f'<img src="{uri}" alt="{text}" title="{text}">'
    return f"<span>{image}<b>{escape(budget)}</b> · {mean:.2f}</span>"
