"""Cells that differ in nothing but their seed, as mean, standard deviation and count."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from analysis.aliases import Row
from analysis.answers import Answers
from analysis.differences import AND_TRAINING, IMAGES
from analysis.seed_means import mean_interval
from analysis.tables import SEED_MEASURES, table

GROUPED_BY = ["series", "eval_keep_rate"]
SHARED = (
    *("series", "dataset", "method", "family", "capacity", "keep_rate", "options"),
    *("schedule", "eval_keep_rate", "stages", "meets_every_rate"),
)
"""Columns of `results` that cells of a series have in common."""


def seeds_table(
    results: pd.DataFrame, answers: Mapping[str, Answers] = MappingProxyType({})
) -> pd.DataFrame:
    """Aggregate cells that differ in nothing but their seed.

    Imported cells never mix with those trained here, nor with those of another project: their
    series is another one.

    Args:
        results: The study's `results`.
        answers: Those of its cells at their own keep rate, by id, for the intervals.

    Returns:
        The table `seeds`: a row a series and keep rate of evaluation, in the order of `results`.
        Standard deviations are sample ones (divided by n - 1), missing where n is 1.
    """
    groups = results.groupby(GROUPED_BY, sort=False, dropna=False)
    return table("seeds", (_row(cells, answers) for _, cells in groups))


def _row(cells: pd.DataFrame, answers: Mapping[str, Answers]) -> Row:
    known = cells[cells["accuracy"].notna()]
    first = cells.iloc[0]
    row = {name: first[name] for name in SHARED}
    row["imported"] = bool(cells["imported"].notna().any())
    row["metric"] = next(iter(known["metric"].dropna()), None)
    row |= {"cells": len(cells), "n": len(known), "seeds": sorted(map(int, known["seed"]))}
    for name in SEED_MEASURES:
        row |= {f"{name}_mean": known[name].mean(), f"{name}_std": known[name].std(ddof=1)}
    return row | _interval(known, answers) | {"note": _note(cells, known)}


def _interval(known: pd.DataFrame, answers: Mapping[str, Answers]) -> Row:
    """Return the interval of the mean accuracy, where all answers at this rate are there."""
    own = known[known["eval_keep_rate"] == known["keep_rate"]]
    found = [answers[cell] for cell in own["cell_id"] if cell in answers]
    if not found or len(found) < len(known):
        return {}
    low, high = mean_interval(found)
    covers = AND_TRAINING if len(found) > 1 else IMAGES
    return {"accuracy_low": low, "accuracy_high": high, "covers": covers}


def _note(cells: pd.DataFrame, known: pd.DataFrame) -> str | None:
    reasons: Sequence[str] = [
        f"seed {cell.seed} is {cell.state}"
        for cell in cells.itertuples()
        if cell.cell_id not in set(known["cell_id"])
    ]
    if len(known) == 1:
        reasons = [*reasons, "one seed has no standard deviation"]
    return "; ".join(reasons) or None
