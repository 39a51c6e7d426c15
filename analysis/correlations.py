"""Whether how alike two cells are goes with how much their performance differs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics import benjamini_hochberg, kendall, spearman
from analysis.tables import SCHEMAS, table

GROUPED_BY: Mapping[str, tuple[str, ...]] = {
    "models": ("cell_a", "keep_rate", "dataset", "method_a", "family_a", "capacity_a", "seed"),
    "rates": ("dataset", "method_a", "family_a", "capacity_a"),
    "capacity": ("dataset", "method_a", "family_a"),
}
"""Comparison -> what the pairs of a group have in common: an anchor cell A and the rate at which
it meets its partners, all of its seed; a method and capacity, over pairs of rates; a method, over
pairs of capacities. For the last two, seeds of a pair are averaged: as points of their own they
would count the same two settings several times."""
SETTINGS = [f"{name}_{side}" for name in ("method", "capacity", "keep_rate") for side in "ab"]
"""Pairs of cells that agree in these and the dataset differ in their seed."""

COEFFICIENTS = {"spearman": spearman, "kendall": kendall}
PLACES = {"pruning": "stage", "merging": "stage", "features": "block"}
"""Table of similarities -> its column of the block they are taken at."""

Row = dict[str, Any]


def correlations_table(results: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Correlate every similarity with the difference of accuracies, `accuracy_A - accuracy_B`.

    Args:
        results: The study's `results`.
        tables: Its `pruning`, `merging` and `features`.

    Returns:
        The table `correlations`: a row a group of pairs, block and similarity. The q values are
        over all of the table, each coefficient's for themselves.
    """
    parts = correlation_parts(results, tables)
    return correlations_of([row for name, pairs in parts for row in correlation_rows(name, pairs)])


def correlation_parts(
    results: pd.DataFrame, tables: Mapping[str, pd.DataFrame]
) -> list[tuple[str, pd.DataFrame]]:
    """Return what `correlation_rows` takes, apart by table, comparison and dataset.

    No group of pairs is in two parts. For the arguments see `correlations_table`.
    """
    cells = results[results["eval_keep_rate"] == results["keep_rate"]].set_index("cell_id")
    return [
        (name, part)
        for name in PLACES
        for _, part in _with_cells(tables[name], cells).groupby(
            ["comparison", "dataset"], sort=False
        )
    ]


def correlation_rows(name: str, pairs: pd.DataFrame) -> list[Row]:
    """Return the rows of a part, q values aside: bootstrapping takes milliseconds for each."""
    return list(_rows(pairs, name))


def correlations_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the table `correlations` of the rows of all parts."""
    for coefficient in COEFFICIENTS:
        p = np.array([row[f"{coefficient}_p"] for row in rows], dtype=np.float64)
        for row, q in zip(rows, benjamini_hochberg(p), strict=True):
            row[f"{coefficient}_q"] = q
    return table("correlations", rows)


def similarities(name: str) -> list[str]:
    """Return the columns of a table that say how alike two cells are, without their spreads."""
    schema = SCHEMAS[name]
    measured = list(schema)[list(schema).index(PLACES[name]) + 1 :]
    return [c for c in measured if schema[c] == "float64" and not c.endswith("_std")]


def _with_cells(pairs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Add the difference of accuracies and the rate at which two cells meet."""
    a, b = (cells.reindex(pairs[side]).reset_index(drop=True) for side in ("cell_a", "cell_b"))
    rate_a, rate_b = a["keep_rate"], b["keep_rate"]
    lower = np.minimum(rate_a, rate_b)
    # A cell without a fixed budget meets its partner at the partner's rate.
    free_a, free_b = (side["meets_every_rate"].eq(True) for side in (a, b))
    meets_at = np.where(free_a & free_b, lower, np.where(free_a, rate_b, rate_a))
    difference = a["accuracy"] - b["accuracy"]
    return pairs.reset_index(drop=True).assign(difference=difference, keep_rate=meets_at)


def _rows(pairs: pd.DataFrame, name: str) -> Iterator[Row]:
    for comparison, columns in GROUPED_BY.items():
        of_comparison = pairs[pairs["comparison"] == comparison]
        for key, group in of_comparison.groupby([*columns, PLACES[name]], sort=False):
            common = dict(zip(columns, key, strict=False))
            shared = {column.removesuffix("_a"): value for column, value in common.items()}
            shared |= {"comparison": comparison, "cell_id": shared.pop("cell", None)}
            shared |= {"table": name, "block": key[-1]}
            for column in similarities(name):
                points = group[[*SETTINGS, column, "difference"]].dropna()
                if "seed" not in columns:
                    points = points.groupby(SETTINGS, sort=False).mean()
                yield shared | {"similarity": column} | _correlated(points, column)


def _correlated(points: pd.DataFrame, column: str) -> Row:
    x, y = points[[column, "difference"]].to_numpy(dtype=np.float64).T
    row: Row = {"pairs": len(x)}
    for name, correlate in COEFFICIENTS.items():
        found = correlate(x, y, (column, "difference of accuracies"))
        row[name] = found.coefficient
        row |= {f"{name}_{part}": getattr(found, part) for part in ("p", "low", "high")}
        row["note"] = found.note
    return row
