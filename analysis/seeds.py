"""Cells that differ in nothing but their seed, as mean, standard deviation and count."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.tables import SEED_MEASURES, table

GROUPED_BY = ["series", "eval_keep_rate"]
SHARED = (
    *("series", "dataset", "method", "family", "capacity", "keep_rate", "options"),
    *("eval_keep_rate", "stages", "meets_every_rate"),
)
"""Columns of `results` that cells of a series have in common."""

Row = dict[str, Any]


def seeds_table(results: pd.DataFrame) -> pd.DataFrame:
    """Aggregate cells that differ in nothing but their seed.

    Imported cells never mix with those trained here, nor with those of another project: their
    series is another one.

    Args:
        results: The study's `results`.

    Returns:
        The table `seeds`: a row a series and keep rate of evaluation, in the order of `results`.
        Standard deviations are sample ones (divided by n - 1), missing where n is 1.
    """
    groups = results.groupby(GROUPED_BY, sort=False)
    return table("seeds", (_row(cells) for _, cells in groups))


def _row(cells: pd.DataFrame) -> Row:
    known = cells[cells["accuracy"].notna()]
    first = cells.iloc[0]
    row = {name: first[name] for name in SHARED}
    row["imported"] = bool(cells["imported"].notna().any())
    row["metric"] = next(iter(known["metric"].dropna()), None)
    row |= {"cells": len(cells), "n": len(known), "seeds": sorted(map(int, known["seed"]))}
    for name in SEED_MEASURES:
        row |= {f"{name}_mean": known[name].mean(), f"{name}_std": known[name].std(ddof=1)}
    return row | {"note": _note(cells, known)}


def _note(cells: pd.DataFrame, known: pd.DataFrame) -> str | None:
    reasons: Sequence[str] = [
        f"seed {cell.seed} is {cell.state}"
        for cell in cells.itertuples()
        if cell.cell_id not in set(known["cell_id"])
    ]
    if len(known) == 1:
        reasons = [*reasons, "one seed has no standard deviation"]
    return "; ".join(reasons) or None
