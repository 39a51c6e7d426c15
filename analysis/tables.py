"""Tables of a study. Every column has its type, also in a table without rows."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import features, heatmaps
from analysis.aliases import Row
from analysis.answers import Answers
from analysis.comparisons import Comparison, identity, pairs
from analysis.intervals import wilson
from analysis.records import CellRecord

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
_INTERVAL: Schema = dict.fromkeys(("accuracy_low", "accuracy_high"), "float64")
_DIFFERENCE: Schema = {
    "n": "int64",
    **dict.fromkeys(("b", "c"), "Int64"),
    **dict.fromkeys(("difference", "low", "high", "p", "q"), "float64"),
    "covers": "string",
}

MEASURED = ("speed_up", "images_per_second", "peak_memory_mb", "latency_ms")
"""Columns of `results` that follow from the table `speed`."""

EMBEDDING = ("cosine_p5", "neighbours", "knn")
"""Numbers of an embedding beside the mean cosine, each with an interval."""

SEED_MEASURES = ("accuracy", "top1", "top5", "map", "loss", "gmacs", "train_seconds")
"""Columns of `results` that `seeds` aggregates."""


def _mean_std(*names: str) -> Schema:
    return {f"{name}_{kind}": "float64" for name in names for kind in ("mean", "std")}


SCHEMAS: dict[str, Schema] = {
    "results": {
        **_CELL,
        "series": "string",
        "options": "string",
        "imported": "string",
        "schedule": "string",
        "eval_keep_rate": "float64",
        "stages": "object",
        "meets_every_rate": "bool",
        "state": "string",
        "epoch": "Int64",
        "epochs": "Int64",
        "metric": "string",
        "accuracy": "float64",
        **_INTERVAL,
        **dict.fromkeys(("top1", "top5", "map", "loss"), "float64"),
        "cosine": "float64",
        **{f"{name}{part}": "float64" for name in EMBEDDING for part in ("", "_low", "_high")},
        "images": "Int64",
        "tokens": "object",
        **dict.fromkeys(("gmacs", "gflops"), "float64"),
        "parameters": "Int64",
        **dict.fromkeys(MEASURED, "float64"),
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
        "schedule": "string",
        "eval_keep_rate": "float64",
        "stages": "object",
        "meets_every_rate": "bool",
        "metric": "string",
        **dict.fromkeys(("cells", "n"), "int64"),
        "seeds": "object",
        **_mean_std(*SEED_MEASURES),
        **_INTERVAL,
        "covers": "string",
        **_NOTE,
    },
    "differences": {
        **dict.fromkeys(("cell_a", "cell_b", "dataset", "method_a", "method_b"), "string"),
        "capacity": "string",
        "keep_rate": "float64",
        "seed": "Int64",
        **_DIFFERENCE,
    },
    "pairwise": {
        **dict.fromkeys(("series_a", "series_b", "cell_a", "cell_b", "dataset"), "string"),
        **dict.fromkeys(("method_a", "method_b", "capacity"), "string"),
        **dict.fromkeys(("keep_rate_a", "keep_rate_b", "gmacs_a", "gmacs_b"), "float64"),
        "same_cost": "bool",
        "seeds": "int64",
        **_DIFFERENCE,
    },
    "budgets": {
        **dict.fromkeys(("dataset", "capacity"), "string"),
        "stages": "object",
        **dict.fromkeys(("by", "device"), "string"),
        "budget": "float64",
        **dict.fromkeys(("series", "method", "family", "schedule"), "string"),
        **dict.fromkeys(("keep_rate", "accuracy", *_INTERVAL), "float64"),
        **dict.fromkeys(("difference", "low", "high", "gmacs", "gmacs_saved"), "float64"),
        **dict.fromkeys(("speed_up", "peak_memory_mb", "behind", "p", "p_holm"), "float64"),
        **dict.fromkeys(("is_best", "in_best_set"), "bool"),
        "seeds": "int64",
        "covers": "string",
        **_NOTE,
    },
    "pruning": {
        **_PAIR,
        "stage": "int64",
        **_mean_std("iou", "ioa"),
        "iou_chance": "float64",
        "images": "int64",
        **_NOTE,
    },
    "merging": {
        **_PAIR,
        "stage": "int64",
        **_mean_std("homogeneity", "completeness", "v_measure"),
        "v_measure_chance": "float64",
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
        "outcome": "string",
        **dict.fromkeys(("groups", "pairs"), "int64"),
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
        **dict.fromkeys(("methods", "datasets", "blocks"), "int64"),
        **dict.fromkeys(("friedman", "friedman_p", "critical_difference"), "float64"),
        **_NOTE,
    },
    "speed": {
        **_CELL,
        "eval_keep_rate": "float64",
        **dict.fromkeys(("measurement", "device", "device_type"), "string"),
        "main": "bool",
        "batch_size": "int64",
        "precision": "string",
        "compiled": "boolean",
        "rounds": "Int64",
        **{
            f"{name}{part}": "float64"
            for name in ("host_images_per_second", "images_per_second", "speed_up")
            for part in ("", "_low", "_high")
        },
        **{
            f"{name}{part}": "float64"
            for name in ("host_latency", "latency")
            for part in ("_ms", "_p95_ms")
        },
        **dict.fromkeys(("host_peak_memory_mb", "peak_memory_mb"), "float64"),
        "tokens": "object",
        "disturbed": "bool",
        **dict.fromkeys(("host_spread", "load_before", "load_after", "other_cpus"), "float64"),
        **dict.fromkeys(("gpu_users", "tries"), "Int64"),
        **dict.fromkeys(("measured", "torch", "timm"), "string"),
        **_NOTE,
    },
    "tuning": {
        **_CELL,
        **dict.fromkeys(("recipe", "values", "state", "metric"), "string"),
        **dict.fromkeys(("accuracy", "loss"), "float64"),
        **dict.fromkeys(("epoch", "epochs"), "Int64"),
        "stopped": "bool",
        "gentler": "string",
        "chosen": "bool",
        "edge": "string",
        "train_seconds": "float64",
    },
}
"""Table -> column -> dtype."""


def table(name: str, rows: Iterable[Row]) -> pd.DataFrame:
    """Make the table `name` (a key of `SCHEMAS`) of rows; what a row lacks is a missing value."""
    schema = SCHEMAS[name]
    return pd.DataFrame(list(rows), columns=list(schema), dtype="object").astype(schema)


def results_table(
    records: Iterable[CellRecord], answers: Mapping[str, Answers] = MappingProxyType({})
) -> pd.DataFrame:
    """One row a record, whatever its state: identity, progress, metrics and the error, if any.

    `stages` holds the list of reduction blocks and `tokens` the list of the mean live patch
    tokens after each of them (None for a cell that is not evaluated).

    Args:
        records: The cells.
        answers: Theirs at their own keep rate, by cell id, for the intervals of the accuracies.
    """
    return table("results", (_result(record, answers.get(record.cell_id)) for record in records))


def described(
    name: str, cells: Iterable[tuple[CellRecord, Mapping[str, Iterable[Row]]]]
) -> pd.DataFrame:
    """Make the table `tokens` or `depth_maps` of what `tokens.describe_tokens` gives each cell.

    `tokens` has a row a stage with `tokens` (live patch tokens) and `share_left` (see
    `tokens.share_left`), and a row without a stage for the whole model: `depth` over all patches
    of all images, for cells that keep patches or do not reduce. `depth_maps` has a row for each
    cell of the patch grid; methods that only merge have no token depth and no rows. Standard
    deviations are population ones.
    """
    rows = (cell_columns(record) | row for record, found in cells for row in found[name])
    return table(name, rows)


class MapPair(NamedTuple):
    """Two cells and their mean depth maps [rows, columns]."""

    comparison: Comparison
    a: CellRecord
    b: CellRecord
    map_a: np.ndarray
    map_b: np.ndarray


def map_pairs(depth_maps: pd.DataFrame, records: Sequence[CellRecord]) -> list[MapPair]:
    """List the pairs of cells whose depth maps are compared (`comparisons.pairs`), each once.

    Pairs are across datasets and, within a dataset, across methods, rates and capacities.

    Args:
        depth_maps: The table `depth_maps`; cells without a map are left out.
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


_FACTS = ("series", "schedule", "options", "imported", "meets_every_rate", "state", "error")


def cell_columns(record: CellRecord) -> Row:
    """Return the columns that say which cell a row is about."""
    return {name: getattr(record, name) for name in _CELL}


def _result(record: CellRecord, answers: Answers | None) -> Row:
    counted = record.metrics.get("tokens")
    tokens_left = [counted.get(str(block)) for block in record.stages] if counted else None
    facts = {name: getattr(record, name) for name in _FACTS}
    lists = {"stages": list(record.stages), "tokens": tokens_left}
    rate = record.keep_rate if record.eval_keep_rate is None else record.eval_keep_rate
    facts |= {"eval_keep_rate": rate, "note": _why_missing(record)}
    facts |= _interval(record, answers)
    facts |= dict.fromkeys(MEASURED)  # Older evaluations say how fast they were themselves.
    return {**record.metrics, **record.progress, **cell_columns(record), **facts, **lists}


def _interval(record: CellRecord, answers: Answers | None) -> Row:
    """Return the ends of the accuracy's interval; of another rate only what its number tells."""
    if answers is None or not record.metrics:
        return {}
    low, high = answers.interval
    if record.eval_keep_rate is not None:
        if answers.right is None or answers.has_units:
            return {}
        images = np.array(record.metrics["images"])
        low, high = (
            100 * float(end) for end in wilson(record.metrics["top1"] / 100 * images, images)
        )
    others = {
        f"{name}_{end}": value
        for name, ends in answers.intervals.items()
        for end, value in zip(("low", "high"), ends, strict=True)
    }
    return {"accuracy_low": low, "accuracy_high": high, **others}


def _why_missing(record: CellRecord) -> str | None:
    """Return why numbers of a cell are missing, None where the metric alone tells."""
    if record.note or record.metrics:
        return record.note
    return f"not evaluated: the cell is {record.state}"
