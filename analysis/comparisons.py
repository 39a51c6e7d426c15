"""Which cells of a study are compared, and the rows that comparing two of them gives."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np

from analysis import features, patterns
from analysis.records import CellArtifacts, CellRecord

Comparison = Literal["models", "rates", "capacity", "datasets"]
Kind = Literal["pruning", "merging", "features"]
Row = dict[str, Any]
Measured = dict[str, list[tuple[Row, Row]]]
"""Table -> what its metrics are at each common stage or block, for (A, B) and for (B, A)."""

KINDS: tuple[Kind, ...] = ("pruning", "merging", "features")
CAPACITIES = ("tiny", "small", "base", "large")
"""Known capacities, ascending."""


def pairs(
    records: Sequence[CellRecord], comparison: Comparison
) -> list[tuple[CellRecord, CellRecord]]:
    """List the pairs of cells (A, B) that a comparison is made of, each once.

    The cells of a pair are alike in dataset, method, capacity, keep rate, stages and seed but for

    - `models`: the method; a cell that `meets_every_rate` pairs with any rate. A is the earlier
      in `records`; `compare` gives rows both ways.
    - `rates`: the keep rate; A is the higher.
    - `capacity`: the capacity; A is the larger (tiny < small < base < large, else by the
      parameters in the metrics), or else the first in the alphabet.
    - `datasets`: the dataset; A is the earlier in `records`. Only for maps over images
      (`analysis.tables.heatmaps_table`), as the images differ.

    Args:
        records: The cells to compare, normally those that are evaluated.
        comparison: What the two cells differ in.

    Raises:
        ValueError: `comparison` is not one of these.
    """
    if comparison not in _RULES:
        raise ValueError(f"comparison is {comparison!r}, but must be one of {', '.join(_RULES)}")
    matches, in_order = _RULES[comparison]
    found = [pair for pair in combinations(records, 2) if matches(*pair)]
    return [(a, b) if in_order(a, b) else (b, a) for a, b in found]


def compare(
    a: CellArtifacts, b: CellArtifacts, comparison: Comparison, kinds: Sequence[Kind] = KINDS
) -> dict[str, list[Row]]:
    """Compare two cells on the images they were both evaluated on.

    Args:
        a: Cell A of a pair from `pairs`.
        b: Cell B of that pair.
        comparison: What the pair was made for. `models` gives rows for (A, B) and (B, A), since
            some metrics have a direction; the others give rows for (A, B) alone.
        kinds: The tables to make rows for.

    Returns:
        Rows of each table in `kinds`, one a common stage (`pruning`, `merging`) or block
        (`features`), as `analysis.tables.table` takes them. Cells that do not both have kept
        patches or groups give no rows in that table; a metric that cannot be computed is NaN
        and `note` says why. The reference classes of `merging` are the groups of A, for `rates`
        those of B (the lower rate).

    Raises:
        ValueError: The cells were not evaluated on the same images and patch grid.
    """
    return rows(a.record, b.record, comparison, measure(a, b, kinds))


def measure(a: CellArtifacts, b: CellArtifacts, kinds: Sequence[Kind] = KINDS) -> Measured:
    """Measure how alike two cells are on the images they were both evaluated on.

    No more memory is needed than for `features.CHUNK` images, besides the two cells' own.

    Args:
        a: Cell A.
        b: Cell B.
        kinds: The tables to measure for.

    Raises:
        ValueError: The cells were not evaluated on the same images and patch grid.
    """
    matched = _matched(a, b)
    measured: Measured = {kind: [] for kind in kinds}
    for kind in kinds:
        axis, by_block, metrics = _ENGINES[kind]
        in_a, in_b = by_block(a), by_block(b)
        for block in sorted(in_a.keys() & in_b.keys()):
            chunks = ((in_a[block][of_a], in_b[block][of_b]) for of_a, of_b in matched)
            ab, ba = metrics(chunks, a.num_patches)
            place = {axis: block, "images": len(a.images), "note": None}
            measured[kind].append((place | ab, place | ba))
    return measured


def rows(
    a: CellRecord,
    b: CellRecord,
    comparison: Comparison,
    measured: Mapping[str, Sequence[Sequence[Row]]],
) -> dict[str, list[Row]]:
    """Return the rows that a pair adds to each table, as `compare`, from what `measure` found."""
    tables: dict[str, list[Row]] = {kind: [] for kind in measured}
    for kind, at_blocks in measured.items():
        for ab, ba in at_blocks:
            if comparison == "models":
                tables[kind].append(identity(a, b, comparison) | ab)
                tables[kind].append(identity(b, a, comparison) | ba)
                continue
            lower_is_reference = kind == "merging" and comparison == "rates"
            tables[kind].append(identity(a, b, comparison) | (ba if lower_is_reference else ab))
    return tables


def _differs(a: CellRecord, b: CellRecord) -> set[str]:
    axes = ("dataset", "method", "capacity", "keep_rate", "stages", "seed")
    return {axis for axis in axes if getattr(a, axis) != getattr(b, axis)}


def _differs_in_method(a: CellRecord, b: CellRecord) -> bool:
    any_rate = a.meets_every_rate or b.meets_every_rate
    return _differs(a, b) - ({"keep_rate"} if any_rate else set()) == {"method"}


def _is_larger(a: CellRecord, b: CellRecord) -> bool:
    sizes: list[Any] = [record.metrics.get("parameters") for record in (a, b)]
    if {a.capacity, b.capacity} <= set(CAPACITIES):
        sizes = [CAPACITIES.index(record.capacity) for record in (a, b)]
    if None in sizes or sizes[0] == sizes[1]:
        return a.capacity < b.capacity
    return sizes[0] > sizes[1]


_Test = Callable[[CellRecord, CellRecord], bool]
_RULES: dict[str, tuple[_Test, _Test]] = {
    "models": (_differs_in_method, lambda a, b: True),
    "rates": (lambda a, b: _differs(a, b) == {"keep_rate"}, lambda a, b: a.keep_rate > b.keep_rate),
    "capacity": (lambda a, b: _differs(a, b) == {"capacity"}, _is_larger),
    "datasets": (lambda a, b: _differs(a, b) == {"dataset"}, lambda a, b: True),
}
"""Comparison -> whether two cells belong to it, and whether they are in the order A, B."""


def _matched(a: CellArtifacts, b: CellArtifacts) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of A and of B that show the same images in the same order, chunk by chunk."""
    names = f"{a.record.cell_id} and {b.record.cell_id}"
    order_a, order_b = np.argsort(a.images, kind="stable"), np.argsort(b.images, kind="stable")
    if not np.array_equal(a.images[order_a], b.images[order_b]):
        raise ValueError(f"{names} were given, but must have been evaluated on the same images")
    if a.grid != b.grid:
        raise ValueError(f"{names} have patch grids {a.grid} and {b.grid}, but must share one")
    cuts = range(features.CHUNK, len(order_a), features.CHUNK)
    return list(zip(np.split(order_a, cuts), np.split(order_b, cuts), strict=True))


def identity(a: CellRecord, b: CellRecord, comparison: Comparison) -> Row:
    """Return the columns that say which two cells a row compares, and for what."""
    row: Row = {"comparison": comparison, "dataset": a.dataset, "seed": a.seed}
    for side, record in (("a", a), ("b", b)):
        row[f"cell_{side}"] = record.cell_id
        for name in ("method", "family", "capacity", "keep_rate"):
            row[f"{name}_{side}"] = getattr(record, name)
    return row


_Chunks = Iterable[tuple[np.ndarray, np.ndarray]]
"""The same images in cell A and in cell B."""


def _pruning(chunks: _Chunks, num_patches: int) -> tuple[Row, Row]:
    found = []
    for kept in chunks:
        a, b = (patterns.kept_masks(of_cell, num_patches) for of_cell in kept)
        found.append((patterns.iou(a, b), patterns.ioa(a, b), patterns.ioa(b, a)))
    iou, ioa_ab, ioa_ba = map(np.concatenate, zip(*found, strict=True))
    shared = mean_std("iou", iou)
    return shared | mean_std("ioa", ioa_ab), shared | mean_std("ioa", ioa_ba)


def _merging(chunks: _Chunks, num_patches: int) -> tuple[Row, Row]:
    found = [patterns.partition_similarity(a, b) for a, b in chunks]
    ab = patterns.PartitionSimilarity(*map(np.concatenate, zip(*found, strict=True)))
    ba = ab._replace(homogeneity=ab.completeness, completeness=ab.homogeneity)
    return _partition_row(ab), _partition_row(ba)


def _partition_row(similarity: patterns.PartitionSimilarity) -> Row:
    row: Row = {}
    for name, values in similarity._asdict().items():
        row |= mean_std(name, values)
    return row


def _features(chunks: _Chunks, num_patches: int) -> tuple[Row, Row]:
    row: Row = dict.fromkeys(features.METRICS, np.nan)
    try:
        moments = features.moments_of_chunks(chunks)
        row |= {"cka": features.cka(moments), "procrustes": features.procrustes(moments)}
        rho, weights_a, weights_b = features.canonical_correlations(moments)
    except ValueError as reason:
        row["note"] = str(reason)
        return row, row
    row |= {"mean_cca": features.mean_cca(rho), "mean_squared_cca": features.mean_squared_cca(rho)}
    ab, ba = features.pwcca(rho, weights_a), features.pwcca(rho, weights_b)
    return row | {"pwcca": ab}, row | {"pwcca": ba}


def mean_std(name: str, values: np.ndarray) -> Row:
    """Return the columns `{name}_mean` and `{name}_std` (population) over all values."""
    return {f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std())}


_Measure = Callable[[_Chunks, int], tuple[Row, Row]]
_ENGINES: dict[Kind, tuple[str, Callable[[CellArtifacts], dict[int, np.ndarray]], _Measure]] = {
    "pruning": ("stage", lambda cell: cell.kept, _pruning),
    "merging": ("stage", lambda cell: cell.groups, _merging),
    "features": ("block", lambda cell: cell.cls, _features),
}
"""Table -> column that says where, arrays of a cell by block, metrics of (A, B) and (B, A)."""
