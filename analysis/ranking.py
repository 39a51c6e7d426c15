"""How methods rank by performance over datasets, capacities and keep rates."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.aliases import Row
from analysis.statistics import average_ranks, friedman, nemenyi_critical_difference
from analysis.tables import table

BLOCK = ["dataset", "capacity", "keep_rate"]
"""What methods are ranked within."""
FEWEST_BLOCKS = 0.5
"""A method that lacks more than this share of the blocks is not ranked."""

FEWEST_DATASETS = 5
"""Datasets are what is independent; with fewer no test can tell methods apart."""

UNTESTED = "Friedman's test takes 3 methods and accuracies that differ"


def ranks_table(results: pd.DataFrame) -> pd.DataFrame:
    """Rank methods within each (dataset, capacity, keep rate), and average the ranks.

    Ranks are averaged within a dataset first, then over datasets: settings of one dataset are not
    independent. So datasets are the blocks of Friedman's test and of Nemenyi's difference.

    Seeds are averaged first. The unreduced baseline is not ranked. A method without a fixed
    budget that has one cell for all rates is in every block of its dataset and capacity. Only
    blocks in which all ranked methods have finished count.

    Args:
        results: The study's `results`.

    Returns:
        The table `ranks`: a row a method, over all datasets (`dataset` missing) if several are
        left to pool, and for each.
    """
    at_own_rate = results["eval_keep_rate"] == results["keep_rate"]
    ranked = results[at_own_rate & (results["family"] != "baseline")]
    rows = list(_rows(ranked, None))
    if not any(row["datasets"] > 1 for row in rows):
        rows = []
    for dataset, part in ranked.groupby("dataset", sort=False):
        rows += _rows(part, str(dataset))
    return table("ranks", rows)


def scores_by_block(results: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies, [blocks, methods], mean over seeds; NaN where a cell is not done."""
    scores = results.pivot_table(
        "accuracy", BLOCK, "method", aggfunc="mean", dropna=False, observed=True, sort=False
    )
    scores = scores.dropna(how="all")
    for method, cells in results[results["meets_every_rate"]].groupby("method"):
        if cells["keep_rate"].nunique() == 1:
            means = cells.groupby(BLOCK[:2])["accuracy"].mean()
            blocks = scores.index.to_frame()
            scores[method] = means.reindex(pd.MultiIndex.from_frame(blocks[BLOCK[:2]])).to_numpy()
    return scores


def _rows(results: pd.DataFrame, dataset: str | None) -> Iterator[Row]:
    scores = scores_by_block(results)
    missing = scores.isna().mean()
    ranked = scores.loc[:, missing <= FEWEST_BLOCKS].dropna()
    blocks, methods = ranked.shape
    of_datasets = _ranks_by_dataset(ranked)
    tested = _tested(of_datasets.to_numpy()) | {"datasets": len(of_datasets), "blocks": blocks}
    ranks = of_datasets.mean().to_dict() if blocks else {}
    families = results.drop_duplicates("method").set_index("method")["family"]
    for method in scores.columns:
        row = {"dataset": dataset, "method": method, "family": families[method]}
        left_out = len(scores) - blocks
        note = f"{left_out} blocks left out, for a method is not done there" if left_out else None
        note = "; ".join(filter(None, (note, _untested(tested)))) or None
        if method not in ranks:
            note = f"not ranked: not done in {missing[method]:.0%} of {len(scores)} blocks"
        yield row | {"average_rank": ranks.get(method), "methods": methods, "note": note} | tested


def _ranks_by_dataset(scores: pd.DataFrame) -> pd.DataFrame:
    """Return each method's average rank within each dataset, [datasets, methods]."""
    datasets = scores.index.get_level_values("dataset")
    found = {name: average_ranks(part.to_numpy()) for name, part in scores.groupby(datasets)}
    return pd.DataFrame.from_dict(found, orient="index", columns=scores.columns)


def _tested(ranks: np.ndarray) -> Row:
    datasets, methods = ranks.shape
    enough = datasets >= FEWEST_DATASETS
    statistic, p = friedman(-ranks) if enough else (np.nan, np.nan)
    comparable = enough and methods > 1
    difference = nemenyi_critical_difference(datasets, methods) if comparable else np.nan
    return {"friedman": statistic, "friedman_p": p, "critical_difference": difference}


def _untested(tested: Row) -> str | None:
    if tested["datasets"] < FEWEST_DATASETS:
        found = "1 dataset" if tested["datasets"] == 1 else f"{tested['datasets']} datasets"
        return f"no test: {found}, but it takes {FEWEST_DATASETS}"
    return UNTESTED if np.isnan(tested["friedman"]) else None
