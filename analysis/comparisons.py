"""Which cells of a study are compared, and the rows that comparing two of them gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from analysis import features, patterns
from analysis.aliases import Row
from analysis.records import CellArtifacts, CellRecord

Comparison = Literal["models", "rates", "capacity", "datasets"]
Kind = Literal["pruning", "merging", "features"]
Measured = dict[str, list[tuple[Row, Row]]]
"""Table -> what its metrics are at each common stage or block, for (A, B) and for (B, A)."""

KINDS: tuple[Kind, ...] = ("pruning", "merging", "features")
CAPACITIES = ("tiny", "small", "base", "large")
"""Known capacities, ascending."""

_Rows = list[tuple[np.ndarray, np.ndarray]]
"""Where the same images are in cell A and in cell B, some at a time."""


def pairs(
    records: Sequence[CellRecord], comparison: Comparison
) -> list[tuple[CellRecord, CellRecord]]:
    """List the pairs of cells (A, B) that a comparison is made of, each once.

    The cells of a pair are alike in dataset, method, capacity, keep rate, stages and seed but for

    - `models`: the method; a cell that `meets_every_rate` pairs with any rate. A is the earlier
      in `records`; `rows` gives rows both ways.
    - `rates`: the keep rate; A is the higher.
    - `capacity`: the capacity; A is the larger (tiny < small < base < large, else by the
      parameters in the metrics), or else the first in the alphabet.
    - `datasets`: the dataset; A is the earlier in `records`. Only for maps over images
      (`analysis.tables.map_pairs`), as the images differ.

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


def measure(a: CellArtifacts, b: CellArtifacts, kinds: Sequence[Kind] = KINDS) -> Measured:
    """Measure how alike two cells are on the images they were both evaluated on.

    No more memory is needed than for `features.CHUNK` images, besides the two cells' own.

    Args:
        a: Cell A; the `moments` of its features are gathered here if it comes without.
        b: Cell B, likewise.
        kinds: The tables to measure for.

    Raises:
        ValueError: The cells were not evaluated on the same images and patch grid.
    """
    matched = _matched(a, b)
    if "features" in kinds:
        a, b = (cell if cell.moments else cell.with_moments() for cell in (a, b))
    measured: Measured = {kind: [] for kind in kinds}
    for kind in kinds:
        axis, by_block, metrics = _ENGINES[kind]
        for block in sorted(by_block(a).keys() & by_block(b).keys()):
            ab, ba = metrics(_Place(a, b, block, matched))
            place = {axis: block, "images": len(a.images), "note": None}
            measured[kind].append((place | ab, place | ba))
    return measured


def rows(
    a: CellRecord,
    b: CellRecord,
    comparison: Comparison,
    measured: Mapping[str, Sequence[Sequence[Row]]],
) -> dict[str, list[Row]]:
    """Return the rows that a pair adds to each table.

    Args:
        a: Cell A of a pair from `pairs`.
        b: Cell B of that pair.
        comparison: What the pair differs in. `models` gives rows for (A, B) and (B, A), because
            some metrics have a direction; the others give rows for (A, B) alone.
        measured: What `measure` returned for the pair.

    Returns:
        Rows of each measured table, one a common stage (`pruning`, `merging`) or block
        (`features`), as `analysis.tables.table` takes them. Cells that do not both have kept
        patches or groups give no rows in that table. A metric that cannot be computed is NaN,
        and `note` says why. The reference classes of `merging` are the groups of A; for `rates`
        they are those of B, the lower rate.
    """
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
    found = {axis for axis in axes if getattr(a, axis) != getattr(b, axis)}
    return found | ({"keep_rate"} if a.schedule != b.schedule else set())


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


def _matched(a: CellArtifacts, b: CellArtifacts) -> _Rows:
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


class _Place(NamedTuple):
    """Where two cells are compared."""

    a: CellArtifacts
    b: CellArtifacts
    block: int
    rows: _Rows

    def chunks(
        self, by_block: Callable[[CellArtifacts], Mapping[int, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield arrays of the same images in both cells."""
        a, b = (by_block(cell)[self.block] for cell in (self.a, self.b))
        return ((a[of_a], b[of_b]) for of_a, of_b in self.rows)


def _pruning(place: _Place) -> tuple[Row, Row]:
    found, full, num_patches = list[Any](), [], place.a.num_patches
    for kept in place.chunks(lambda cell: cell.kept):
        a, b = (patterns.kept_masks(of_cell, num_patches) for of_cell in kept)
        sizes = a.sum(axis=1), b.sum(axis=1)
        chance = patterns.iou_chance(*sizes, num_patches)
        found.append((patterns.iou(a, b), patterns.ioa(a, b), patterns.ioa(b, a), chance))
        full.append(np.stack(sizes) == num_patches)
    iou, ioa_ab, ioa_ba, chance = map(np.concatenate, zip(*found, strict=True))
    undefined = _undefined(np.concatenate(full, axis=1), "keeps all patches")
    shared = mean_std("iou", iou) | {"iou_chance": float(chance.mean())}
    ab, ba = (shared | mean_std("ioa", ioa) for ioa in (ioa_ab, ioa_ba))
    return _where_defined(ab, undefined), _where_defined(ba, undefined[::-1])


def _merging(place: _Place) -> tuple[Row, Row]:
    found, chance, single = [], [], []
    for a, b in place.chunks(lambda cell: cell.groups):
        found.append(patterns.partition_similarity(a, b))
        chance.append(patterns.v_measure_chance(a, b))
        single.append(np.stack([(of == of[:, :1]).all(axis=1) for of in (a, b)]))
    ab = patterns.PartitionSimilarity(*map(np.concatenate, zip(*found, strict=True)))
    ba = ab._replace(homogeneity=ab.completeness, completeness=ab.homogeneity)
    shared = {"v_measure_chance": float(np.concatenate(chance).mean())}
    undefined = _undefined(np.concatenate(single, axis=1), "has a single group")
    return (
        _where_defined(_partition_row(ab) | shared, undefined),
        _where_defined(_partition_row(ba) | shared, undefined[::-1]),
    )


def _undefined(trivial: np.ndarray, words: str) -> tuple[str | None, str | None]:
    """Say of A and of B that it has no pattern in any image, from bool [2, M]."""
    a, b = (words if of_cell.all() else None for of_cell in trivial)
    return a, b


def _where_defined(row: Row, undefined: tuple[str | None, str | None]) -> Row:
    """Leave similarities missing where a cell has no pattern that could be alike."""
    notes = [f"{side} {words}" for side, words in zip("AB", undefined, strict=True) if words]
    return {**dict.fromkeys(row, np.nan), "note": "; ".join(notes)} if notes else row


def _partition_row(similarity: patterns.PartitionSimilarity) -> Row:
    row: Row = {}
    for name, values in similarity._asdict().items():
        row |= mean_std(name, values)
    return row


def _features(place: _Place) -> tuple[Row, Row]:
    row: Row = dict.fromkeys(features.METRICS, np.nan)
    a, b = (cell.moments[place.block] for cell in (place.a, place.b))
    if isinstance(a, str) or isinstance(b, str):
        row["note"] = a if isinstance(a, str) else b
        return row, row
    moments = features.moments(a, b, place.rows)
    row |= {"cka": features.cka(moments), "procrustes": features.procrustes(moments)}
    try:
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


_Measure = Callable[[_Place], tuple[Row, Row]]
_ENGINES: dict[Kind, tuple[str, Callable[[CellArtifacts], Mapping[int, object]], _Measure]] = {
    "pruning": ("stage", lambda cell: cell.kept, _pruning),
    "merging": ("stage", lambda cell: cell.groups, _merging),
    "features": ("block", lambda cell: cell.moments, _features),
}
"""Table -> column that says where, what a cell has by block, metrics of (A, B) and (B, A)."""
