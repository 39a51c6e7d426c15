"""Correlations with performance: as published, as planted, and none where there is none."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from whole_tables import compare, correlations_table

from analysis import mantel
from analysis.comparisons import pairs
from analysis.correlations import similarities
from analysis.mantel import SIGNED, Group, Setting
from analysis.tables import results_table, table

PUBLISHED_NAMES = {"v_measure": "nmi", "mean_squared_cca": "mean_sq_cca"}


def results_of(records, accuracy):
    """The table of cells whose accuracy is known by their ids."""
    rows = results_table(records)
    return rows.assign(accuracy=rows["cell_id"].map(accuracy).astype("float64"))


def tables_of(kinds, comparison):
    """Tables of all pairs, with the cells that have what each kind of table needs."""
    rows = {kind: [] for kind in kinds}
    for kind, cells in kinds.items():
        for a, b in pairs([cell.record for cell in cells.values()], comparison):
            rows[kind] += compare(cells[a.cell_id], cells[b.cell_id], comparison, [kind])[kind]
    return {name: table(name, new) for name, new in rows.items()}


@pytest.mark.parametrize(
    ("comparison", "published"), [("rates", "rates"), ("capacity", "capacities")]
)
def test_correlations_equal_the_published_study(
    study_cells, feature_cells, study_numbers, comparison, published
):
    sources = {"pruning": study_cells, "merging": study_cells, "features": feature_cells}
    kinds = {
        kind: {entry[side]: cells[entry[side]] for entry in listed for side in "AB"}
        for kind, cells in sources.items()
        for listed in [study_numbers[f"{kind}_across_{published}"]]
    }
    accuracy = {name: numbers["top1"] for name, numbers in study_numbers["accuracy"].items()}
    results = results_of([cell.record for cell in study_cells.values()], accuracy)
    found = correlations_table(results, tables_of(kinds, comparison))

    expected = study_numbers[f"correlations_across_{published}"]
    compared = 0
    for row in found[found["outcome"] == "A - B"].itertuples():
        group = f"{row.method}-{row.capacity}" if comparison == "rates" else row.method
        if group not in expected:
            continue
        name = row.similarity.removesuffix("_mean")
        place = "block" if row.table == "features" else "stage"
        numbers = expected[group][f"{PUBLISHED_NAMES.get(name, name)}/{place}{row.block}"]
        for coefficient, value in numbers.items():
            if value is not None:
                assert getattr(row, coefficient) == pytest.approx(value, abs=1e-6)
                compared += 1
    published_numbers = pd.json_normalize(expected).iloc[0]
    assert compared == published_numbers.notna().sum() > 50


METHODS = [f"method{number}" for number in range(10)]
RATES = (0.25, 0.5, 0.7, 0.9)
CAPACITIES = ("tiny", "small")


def synthetic_study(planted, seed=0):
    """80 cells; where planted, the more alike two cells are the less they differ in accuracy."""
    draw = np.random.default_rng(seed)
    cells = pd.DataFrame(
        [
            {"cell_id": f"{m}-{c}-{r}", "method": m, "capacity": c, "keep_rate": r}
            for m in METHODS
            for c in CAPACITIES
            for r in RATES
        ]
    ).assign(dataset="d", family="pruning", seed=0, meets_every_rate=False, state="done")
    cells["eval_keep_rate"] = cells["keep_rate"]
    cells["accuracy"] = draw.normal(70, 5, len(cells))
    rows = []
    for _, group in cells.groupby(["capacity", "keep_rate"]):
        for a in group.itertuples():
            for b in group.itertuples():
                rows += [_pair(a, b, draw, planted)] if a.cell_id != b.cell_id else []
    tables = {name: table(name, []) for name in ("merging", "features")}
    return cells, tables | {"pruning": table("pruning", rows)}


def _pair(a, b, draw, planted):
    noise = draw.normal(0, 0.3)
    alike = (b.accuracy - a.accuracy) + noise if planted else noise
    return {
        "comparison": "models", "dataset": "d", "seed": 0, "stage": 3, "images": 1,
        "iou_mean": alike, "ioa_mean": draw.normal(),
        **{
            f"{name}_{side}": getattr(cell, name.replace("cell", "cell_id"))
            for name in ("cell", "method", "family", "capacity", "keep_rate")
            for side, cell in (("a", a), ("b", b))
        },
    }  # fmt: skip


def the_tests(found, similarity="iou_mean", outcome="A - B"):
    rows = found[(found["outcome"] == outcome) & (found["similarity"] == similarity)]
    return rows[rows["cell_id"].isna()]


def test_what_is_planted_in_80_cells_comes_out():
    found = correlations_table(*synthetic_study(planted=True))
    assert len(found) == (80 + 1) * 2 * 2
    iou = found[(found["similarity"] == "iou_mean") & (found["outcome"] == "A - B")]
    anchors = iou[iou["cell_id"].notna()]
    assert (anchors["spearman"] < -0.8).all()
    assert (anchors["kendall"] < -0.7).all()
    assert (anchors["pairs"] == len(METHODS) - 1).all()
    assert anchors[["spearman_p", "spearman_q", "spearman_low"]].isna().all(axis=None)
    assert set(anchors["note"]) == {"tested over all cells A together"}
    (row,) = the_tests(found).itertuples()
    assert (row.groups, row.pairs) == (80, 80 * 9)
    assert row.spearman == pytest.approx(anchors["spearman"].mean())
    assert row.spearman_q < 0.05
    assert row.spearman_high < 0


def test_without_an_effect_about_one_p_value_in_twenty_is_small():
    """Similarities and accuracies of six methods in two settings, without any relation."""
    p = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        groups = [
            Group(np.full(5, a), np.delete(np.arange(6), a), draw.normal(size=(5, 1)))
            for a in range(6)
        ]
        settings = [Setting(list(range(6)), draw.normal(size=6), groups) for _ in range(2)]
        p.append([found.p[0] for found in mantel.test(settings, SIGNED).values()])
    small = (np.array(p) < 0.05).mean(axis=0)
    assert (small <= 0.1).all()
    assert (np.array(p) < 0.5).mean() > 0.3


def test_a_row_is_scipys_correlation_of_its_pairs_with_the_q_value_of_all_tests():
    cells, tables = synthetic_study(planted=False)
    found = correlations_table(cells, tables)
    accuracy = cells.set_index("cell_id")["accuracy"]
    for row in found.iloc[[7, 9, 300]].itertuples():
        mine = tables["pruning"][tables["pruning"]["cell_a"] == row.cell_id]
        difference = accuracy[row.cell_id] - mine["cell_b"].map(accuracy)
        if row.outcome == "abs(A - B)":
            difference = difference.abs()
        x = mine[row.similarity]
        assert row.spearman == pytest.approx(stats.spearmanr(x, difference).statistic)
        assert row.kendall == pytest.approx(stats.kendalltau(x, difference).statistic)
    tested = found[found["kendall_p"].notna()]
    assert len(tested) == 4
    q = stats.false_discovery_control(tested["kendall_p"])
    assert tested["kendall_q"].to_numpy() == pytest.approx(q)


def test_an_anchor_meets_cells_without_a_fixed_budget_at_its_own_rate():
    cells, tables = synthetic_study(planted=False)
    cells.loc[cells["method"] == "method0", "meets_every_rate"] = True
    free = tables["pruning"][tables["pruning"]["method_a"] == "method0"]
    elsewhere = free.assign(
        cell_b=free["cell_b"].str.replace("-0.5", "-0.7"), keep_rate_b=free["keep_rate_b"] + 0.2
    )
    elsewhere = elsewhere[free["keep_rate_b"] == 0.5]
    both = pd.concat([tables["pruning"], elsewhere], ignore_index=True)
    found = correlations_table(cells, tables | {"pruning": both})
    anchor = found[(found["cell_id"] == "method0-tiny-0.5") & (found["similarity"] == "iou_mean")]
    anchor = anchor[anchor["outcome"] == "A - B"]
    assert dict(zip(anchor["keep_rate"], anchor["pairs"], strict=True)) == {0.5: 9, 0.7: 9}


def test_seeds_of_the_same_two_settings_are_one_point():
    """Three seeds of a method at four rates: six pairs of rates, each the mean of three."""
    draw = np.random.default_rng(0)
    rates, seeds = (0.9, 0.7, 0.5, 0.25), (0, 1, 2)
    cells = pd.DataFrame(
        [
            {
                "cell_id": f"{r}-{s}", "dataset": "d", "method": "m", "family": "pruning",
                "capacity": "tiny", "keep_rate": r, "eval_keep_rate": r, "seed": s,
                "meets_every_rate": False, "accuracy": draw.normal(),
            }
            for r in rates for s in seeds
        ]
    )  # fmt: skip
    of = {(c.keep_rate, c.seed): c for c in cells.itertuples()}
    listed = [
        _pair(of[a, s], of[b, s], draw, planted=False) | {"comparison": "rates", "seed": s}
        for a in rates for b in rates if a > b for s in seeds
    ]  # fmt: skip
    tables = {name: table(name, []) for name in ("merging", "features")}
    found = correlations_table(cells, tables | {"pruning": table("pruning", listed)})
    assert found["pairs"].tolist() == [6] * 4
    accuracy = cells.groupby("keep_rate")["accuracy"].mean()
    alike = pd.DataFrame(listed).groupby(["keep_rate_a", "keep_rate_b"])["iou_mean"].mean()
    difference = [accuracy[a] - accuracy[b] for a, b in alike.index]
    expected = stats.spearmanr(alike.to_numpy(), difference).statistic
    (row,) = the_tests(found).itertuples()
    assert row.spearman == pytest.approx(expected)
    # Of the 24 orders of four rates two at least correlate as strongly as any: itself and reversed.
    assert row.spearman_p * 24 == pytest.approx(round(row.spearman_p * 24))
    assert row.spearman_p >= 2 / 24
    assert row.spearman_low <= row.spearman <= row.spearman_high


def test_too_few_pairs_and_constant_columns_are_nan_with_the_reason():
    cells, tables = synthetic_study(planted=False)
    pruning = tables["pruning"].assign(ioa_mean=0.5)
    few = pruning[pruning["method_b"].isin(METHODS[:3])]
    found = correlations_table(cells, tables | {"pruning": few})
    anchors = found[found["cell_id"].notna()]
    assert anchors["pairs"].max() == 3
    few_pairs = found[found["pairs"] == 2]
    assert set(few_pairs["note"]) == {"2 pairs, but at least 3 are needed"}
    assert few_pairs[["spearman", "kendall", "spearman_p", "kendall_q"]].isna().all(axis=None)
    constant = found[found["note"] == "ioa_mean constant"]
    assert constant[["spearman", "kendall", "spearman_p", "kendall_q"]].isna().all(axis=None)


def test_an_empty_study_has_an_empty_table():
    tables = {name: table(name, []) for name in ("pruning", "merging", "features")}
    found = correlations_table(results_table([]), tables)
    assert len(found) == 0
    assert "spearman_q" in found


def test_spreads_are_no_similarities():
    assert similarities("pruning") == ["iou_mean", "ioa_mean"]
    assert similarities("features") == [
        "pwcca",
        "mean_cca",
        "mean_squared_cca",
        "cka",
        "procrustes",
    ]
