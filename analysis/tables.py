"""Tables of a study. Every column has its type, also in a table without rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import features, heatmaps, tokens
from analysis.comparisons import Comparison, identity, pairs
from analysis.records import CellArtifacts, CellRecord

Row = dict[str, Any]
Schema = dict[str, str]

MAP_COMPARISONS: tuple[Comparison, ...] = ("datasets", "models", "rates", "capacity")
"""What the cells differ in whose depth maps are compared."""

_CELL: Schema = {
    "cell_id": "string",
    "dataset": "string",
    "method": "string",
    "family": "string",
    "capacity": "string",
    "keep_rate": "float64",
    "seed": "int64",
}
_PAIR: Schema = {
    "comparison": "string",
    "dataset": "string",
    **{
        f"{name}_{side}": "float64" if name == "keep_rate" else "string"
        for name in ("cell", "method", "family", "capacity", "keep_rate")
        for side in "ab"
    },
    "seed": "int64",
}
_NOTE: Schema = {"note": "string"}

SEED_MEASURES = (
    *("accuracy", "top1", "top5", "map", "loss", "gmacs"),
    *("images_per_second", "peak_memory_mb", "train_seconds"),
)
"""Columns of `results` that `seeds` aggregates."""


def _mean_std(*names: str) -> Schema:
    return {f"{name}_{kind}": "float64" for name in names for kind in ("mean", "std")}


SCHEMAS: dict[str, Schema] = {
    "results": {
        **_CELL,
        "series": "string",
        "options": "string",
        "imported": "string",
        "eval_keep_rate": "float64",
        "stages": "object",
        "meets_every_rate": "bool",
        "state": "string",
        "epoch": "Int64",
        "epochs": "Int64",
        "metric": "string",
        **dict.fromkeys(("accuracy", "top1", "top5", "map", "loss"), "float64"),
        "images": "Int64",
        "tokens": "object",
        **dict.fromkeys(("gmacs", "gflops"), "float64"),
        "parameters": "Int64",
        **dict.fromkeys(("images_per_second", "peak_memory_mb"), "float64"),
        "select_on": "string",
        "not_finite": "Int64",
        "gentler": "string",
        **dict.fromkeys(("train_seconds", "data_wait"), "float64"),
        "classes_without_positives": "Int64",
        "imported_accuracy": "float64",
        "error": "string",
        **_NOTE,
    },
    "seeds": {
        **dict.fromkeys(("series", "dataset", "method", "family", "capacity"), "string"),
        "keep_rate": "float64",
        "options": "string",
        "imported": "bool",
        "eval_keep_rate": "float64",
        "stages": "object",
        "meets_every_rate": "bool",
        "metric": "string",
        **dict.fromkeys(("cells", "n"), "int64"),
        "seeds": "object",
        **_mean_std(*SEED_MEASURES),
        **_NOTE,
    },
    "pruning": {**_PAIR, "stage": "int64", **_mean_std("iou", "ioa"), "images": "int64", **_NOTE},
    "merging": {
        **_PAIR,
        "stage": "int64",
        **_mean_std("homogeneity", "completeness", "v_measure"),
        "images": "int64",
        **_NOTE,
    },
    "features": {
        **_PAIR,
        "block": "int64",
        **dict.fromkeys(features.METRICS, "float64"),
        "images": "int64",
        **_NOTE,
    },
    "tokens": {
        **_CELL,
        "stage": "Int64",
        **_mean_std("tokens", "share_left", "depth"),
        "images": "int64",
        **_NOTE,
    },
    "depth_maps": {
        "cell_id": "string",
        "row": "int64",
        "column": "int64",
        **_mean_std("depth"),
        "images": "int64",
    },
    "heatmaps": {
        **_PAIR,
        "dataset_b": "string",
        **dict.fromkeys(heatmaps.METRICS, "float64"),
        **_NOTE,
    },
    "correlations": {
        "comparison": "string",
        **_CELL,
        "seed": "Int64",
        "table": "string",
        "block": "int64",
        "similarity": "string",
        "pairs": "int64",
        **{
            f"{name}{part}": "float64"
            for name in ("spearman", "kendall")
            for part in ("", "_low", "_high", "_p", "_q")
        },
        **_NOTE,
    },
    "ranks": {
        **dict.fromkeys(("dataset", "method", "family"), "string"),
        "average_rank": "float64",
        **dict.fromkeys(("methods", "blocks"), "int64"),
        **dict.fromkeys(("friedman", "friedman_p", "critical_difference"), "float64"),
        **_NOTE,
    },
}
"""Table -> column -> dtype."""


def table(name: str, rows: Iterable[Row]) -> pd.DataFrame:
    """Make the table `name` (a key of `SCHEMAS`) of rows; what a row lacks is a missing value."""
    schema = SCHEMAS[name]
    return pd.DataFrame(list(rows), columns=list(schema), dtype="object").astype(schema)


def results_table(records: Iterable[CellRecord]) -> pd.DataFrame:
    """One row a record, whatever its state: identity, progress, metrics and the error, if any.

    `stages` holds the list of reduction blocks and `tokens` the list of the mean live patch
    tokens after each of them (None for a cell that is not evaluated).
    """
    return table("results", map(_result, records))


def tokens_table(cells: Iterable[CellArtifacts]) -> pd.DataFrame:
    """Tokens left after every stage of every cell, and a row for the whole model.

    A stage's row gives `tokens` (live patch tokens) and `share_left` (see `tokens.share_left`);
    the row without a stage gives `depth` over all patches of all images, for cells that keep
    patches or do not reduce. Standard deviations are population ones.
    """
    return described("tokens", ((cell.record, tokens.describe(cell)) for cell in cells))


def depth_maps_table(cells: Iterable[CellArtifacts]) -> pd.DataFrame:
    """Mean and standard deviation of the token depth, a row for each cell of the patch grid.

    Methods that merge only have no token depth and no rows.
    """
    return described("depth_maps", ((cell.record, tokens.describe(cell)) for cell in cells))


def described(
    name: str, cells: Iterable[tuple[CellRecord, Mapping[str, Iterable[Row]]]]
) -> pd.DataFrame:
    """Make the table `tokens` or `depth_maps` of cells, each with what `tokens.describe` found."""
    return table(name, (_cell(record) | row for record, rows in cells for row in rows[name]))


class MapPair(NamedTuple):
    """Two cells and their mean depth maps [rows, columns]."""

    comparison: Comparison
    a: CellRecord
    b: CellRecord
    map_a: np.ndarray
    map_b: np.ndarray


def heatmaps_table(depth_maps: pd.DataFrame, records: Sequence[CellRecord]) -> pd.DataFrame:
    """Compare the mean depth maps of the cells' pairs: `map_rows` of all `map_pairs`."""
    return table("heatmaps", map_rows(map_pairs(depth_maps, records)))


def map_pairs(depth_maps: pd.DataFrame, records: Sequence[CellRecord]) -> list[MapPair]:
    """List the pairs of cells whose depth maps are compared (`comparisons.pairs`), each once.

    Pairs are across datasets and, within a dataset, across methods, rates and capacities.

    Args:
        depth_maps: Table from `depth_maps_table`; cells without a map are left out.
        records: The cells to compare.
    """
    maps = {
        str(cell): group.pivot(index="row", columns="column", values="depth_mean").to_numpy()
        for cell, group in depth_maps.groupby("cell_id")
    }
    mapped = [record for record in records if record.cell_id in maps]
    return [
        MapPair(comparison, a, b, maps[a.cell_id], maps[b.cell_id])
        for comparison in MAP_COMPARISONS
        for a, b in pairs(mapped, comparison)
    ]


def map_rows(of_pairs: Iterable[MapPair]) -> list[Row]:
    """Return a row of `heatmaps` for each pair: exact transport takes milliseconds for each.

    Maps of different grids leave every metric missing, with a note.
    """
    return [
        identity(pair.a, pair.b, pair.comparison)
        | {"dataset_b": pair.b.dataset}
        | _maps_compared(pair.map_a, pair.map_b)
        for pair in of_pairs
    ]


def _maps_compared(a: np.ndarray, b: np.ndarray) -> Row:
    if a.shape != b.shape:
        rows_a, columns_a, rows_b, columns_b = *a.shape, *b.shape
        return {"note": f"grids of {rows_a} x {columns_a} and {rows_b} x {columns_b} patches"}
    return dict(heatmaps.compare_maps(a, b))


_FACTS = ("series", "options", "imported", "meets_every_rate", "state", "error")


def _cell(record: CellRecord) -> Row:
    return {name: getattr(record, name) for name in _CELL}


def _result(record: CellRecord) -> Row:
    counted = record.metrics.get("tokens")
    tokens_left = [counted.get(str(block)) for block in record.stages] if counted else None
    facts = {name: getattr(record, name) for name in _FACTS}
    lists = {"stages": list(record.stages), "tokens": tokens_left}
    rate = record.keep_rate if record.eval_keep_rate is None else record.eval_keep_rate
    facts |= {"eval_keep_rate": rate, "note": _why_missing(record)}
    return {**record.metrics, **record.progress, **_cell(record), **facts, **lists}


def _why_missing(record: CellRecord) -> str | None:
    """Return why numbers of a cell are missing, None where the metric alone tells."""
    if record.note or not record.metrics:
        return record.note or f"not evaluated: the cell is {record.state}"
    return None if record.metrics.get("peak_memory_mb") else "peak memory is known on GPUs only"
