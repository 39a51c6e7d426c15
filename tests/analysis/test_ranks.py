"""Average ranks of methods over a study's datasets, capacities and rates."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.ranks import ranks_table
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


def test_ranks_come_out_as_planted_over_all_and_for_each_dataset():
    found = ranks_table(results())
    assert found.groupby("dataset", dropna=False).size().to_dict() == {"x": 4, "y": 4, pd.NA: 4}
    for _, rows in found.groupby("dataset", dropna=False):
        ranks = rows.set_index("method")["average_rank"]
        assert ranks.to_dict() == {"good": 1.0, "fair": 2.0, "poor": 3.0, "worst": 4.0}
    overall = found[found["dataset"].isna()].iloc[0]
    assert (overall["blocks"], overall["methods"]) == (8, 4)
    assert overall["critical_difference"] == pytest.approx(nemenyi_critical_difference(8, 4))
    assert overall["friedman_p"] < 0.001
    assert found["note"].isna().all()


def test_ranks_and_test_equal_scipys_on_noise():
    rows = results(spread=3.0, datasets=("x",))
    found = ranks_table(rows).set_index("method")
    scores = rows.pivot_table("accuracy", ["capacity", "keep_rate"], "method")
    expected = scores.rank(axis=1, ascending=False).mean()
    assert found["average_rank"].to_dict() == pytest.approx(expected.to_dict())
    tested = stats.friedmanchisquare(*scores.to_numpy().T)
    assert found["friedman"].iloc[0] == pytest.approx(tested.statistic)
    assert found["friedman_p"].iloc[0] == pytest.approx(tested.pvalue)


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
    assert set(found["note"]) == {"1 blocks left out, for a method is not done there"}
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
    assert found["note"].str.contains("Friedman's test takes 3 methods").all()
