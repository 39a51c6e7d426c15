"""Average ranks of methods over a study's datasets, capacities and rates."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.ranking import ranks_table
from analysis.statistics import nemenyi_critical_difference

QUALITY = {"good": 3.0, "fair": 2.0, "poor": 1.0, "worst": 0.0}


def results(spread=0.1, seeds=(0,), datasets=("x", "y"), rates=(0.5, 0.7)):
    draw = np.random.default_rng(0)
    rows = [
        {
            "cell_id": f"{d}-{m}-{c}-{r}-{s}", "dataset": d, "method": m, "capacity": c,
            "keep_rate": r, "eval_keep_rate": r, "seed": s, "family": "pruning",
            "meets_every_rate": False, "accuracy": 50 + quality + draw.normal(0, spread),
        }
        for d in datasets for m, quality in QUALITY.items() for c in ("tiny", "small")
        for r in rates for s in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows)


FIVE = ("v", "w", "x", "y", "z")


def test_ranks_come_out_as_planted_over_all_and_for_each_dataset():
    found = ranks_table(results(datasets=FIVE))
    assert found.groupby("dataset", dropna=False).size().tolist() == [4] * 6
    for _, rows in found.groupby("dataset", dropna=False):
        ranks = rows.set_index("method")["average_rank"]
        assert ranks.to_dict() == {"good": 1.0, "fair": 2.0, "poor": 3.0, "worst": 4.0}
    overall = found[found["dataset"].isna()].iloc[0]
    assert (overall["datasets"], overall["blocks"], overall["methods"]) == (5, 20, 4)
    assert overall["critical_difference"] == pytest.approx(nemenyi_critical_difference(5, 4))
    assert overall["friedman_p"] < 0.01
    assert found[found["dataset"].isna()]["note"].isna().all()
    assert set(found[found["dataset"] == "x"]["note"]) == {"no test: 1 dataset, but it takes 5"}
    assert found[found["dataset"] == "x"]["friedman"].isna().all()


def test_ranks_are_averaged_within_datasets_and_these_are_the_tests_blocks():
    rows = results(spread=3.0, datasets=FIVE)
    rows = rows.drop(rows.index[(rows["dataset"] == "v") & (rows["keep_rate"] == 0.7)])
    found = ranks_table(rows)
    overall = found[found["dataset"].isna()].set_index("method")
    scores = rows.pivot_table("accuracy", ["dataset", "capacity", "keep_rate"], "method")
    of_datasets = scores.rank(axis=1, ascending=False).groupby("dataset").mean()
    assert overall["average_rank"].to_dict() == pytest.approx(of_datasets.mean().to_dict())
    tested = stats.friedmanchisquare(*of_datasets.to_numpy().T)
    assert overall["friedman"].iloc[0] == pytest.approx(tested.statistic)
    assert overall["friedman_p"].iloc[0] == pytest.approx(tested.pvalue)
    assert overall["blocks"].iloc[0] == 18


def test_four_datasets_are_too_few_for_a_test():
    found = ranks_table(results(datasets=FIVE[:4]))
    overall = found[found["dataset"].isna()]
    assert overall[["friedman", "friedman_p", "critical_difference"]].isna().all(axis=None)
    assert set(overall["note"]) == {"no test: 4 datasets, but it takes 5"}


def test_nothing_is_pooled_where_one_dataset_is_left():
    rows = results(datasets=("x", "y"))
    rows.loc[(rows["dataset"] == "y") & (rows["method"] == "good"), "accuracy"] = np.nan
    assert ranks_table(rows)["dataset"].notna().all()


def test_favourites_by_dataset_are_no_overall_winner():
    """Each dataset has an order of its own, the same at all of its settings."""
    small = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        rows = results(datasets=FIVE)
        quality = {(d, m): draw.normal() for d in FIVE for m in QUALITY}
        own = [quality[pair] for pair in zip(rows["dataset"], rows["method"], strict=True)]
        rows["accuracy"] = np.array(own) + draw.normal(0, 0.01, len(rows))
        small += ranks_table(rows)["friedman_p"].min() < 0.05
    assert small <= 6


def test_seeds_are_averaged_before_ranking():
    rows = results(seeds=(0, 1), datasets=("x",), rates=(0.5,))
    # One lucky seed of the worst method, which its mean does not carry.
    rows.loc[(rows["method"] == "worst") & (rows["seed"] == 0), "accuracy"] = 53.5
    found = ranks_table(rows).set_index("method")
    assert found["blocks"].eq(2).all()
    assert (
        found.loc["worst", "average_rank"] == 3.0
        if _mean(rows, "worst") > _mean(rows, "poor")
        else 4.0
    )


def _mean(rows, method):
    return rows[rows["method"] == method]["accuracy"].mean()


def test_the_baseline_is_not_ranked_and_other_rates_do_not_count():
    rows = results()
    baseline = rows[rows["method"] == "good"].assign(
        method="deit", family="baseline", keep_rate=1.0, eval_keep_rate=1.0
    )
    others = rows.assign(eval_keep_rate=0.9, accuracy=0.0)
    found = ranks_table(pd.concat([rows, baseline, others], ignore_index=True))
    assert found.equals(ranks_table(rows))


def test_a_method_with_one_cell_for_all_rates_is_in_every_block():
    rows = results()
    free = rows[(rows["method"] == "good") & (rows["keep_rate"] == 0.5)]
    free = free.assign(method="linear", meets_every_rate=True, accuracy=99.0)
    found = ranks_table(pd.concat([rows, free], ignore_index=True))
    overall = found[found["dataset"].isna()].set_index("method")
    assert overall.loc["linear", "average_rank"] == 1.0
    assert overall["blocks"].eq(8).all()


def test_unfinished_cells_leave_blocks_or_methods_out_and_the_note_says_so():
    rows = results(datasets=("x",))
    rows.loc[rows.index[0], "accuracy"] = np.nan
    found = ranks_table(rows).set_index("method")
    assert found["blocks"].eq(3).all()
    note = "1 blocks left out, for a method is not done there; no test: 1 dataset, but it takes 5"
    assert set(found["note"]) == {note}
    rows.loc[rows["method"] == "good", "accuracy"] = np.nan
    found = ranks_table(rows).set_index("method")
    assert np.isnan(found.loc["good", "average_rank"])
    assert found.loc["good", "note"] == "not ranked: not done in 100% of 4 blocks"
    assert found.loc["fair", "average_rank"] == 1.0


@pytest.mark.parametrize("methods", [0, 1])
def test_a_study_without_anything_to_rank_has_no_numbers(methods):
    rows = results(datasets=("x",))
    rows = rows[rows["method"].isin(list(QUALITY)[:methods])]
    found = ranks_table(rows)
    assert len(found) == methods
    assert found["critical_difference"].isna().all()
    assert found["note"].str.contains("no test: |not ranked: ", regex=True).all()
