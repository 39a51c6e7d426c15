"""Differences of accuracies on the same images: between cells, units, seeds and at equal cost."""

import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.answers import Answers, prediction_arrays
from analysis.differences import (
    difference_rows,
    differences_table,
    pairwise_rows,
    pairwise_table,
)
from analysis.records import CellRecord
from analysis.seed_means import mean_interval
from analysis.seeds import seeds_table
from analysis.tables import SCHEMAS, results_table

IMAGES = 400


def cell(method, rate=0.5, seed=0, gmacs=1.0, **others):
    fixed = {"family": "baseline" if method == "deit" else "pruning", "state": "done"}
    fixed |= {"meets_every_rate": method == "deit", "series": f"{method}-{rate}"}
    return CellRecord(
        cell_id=f"{method}-{rate}-{seed}", dataset="d", method=method, capacity="tiny",
        keep_rate=rate, stages=(3, 6), seed=seed,
        metrics={"gmacs": gmacs, "metric": "top1", "images": IMAGES},
        **fixed | others,
    )  # fmt: skip


def answers(share, seed=0, unit=None, images=IMAGES):
    """Answers of a cell; harder images are harder for every cell."""
    hard = np.random.default_rng(99).random(images)
    luck = np.random.default_rng(seed).normal(0, 0.1, images)
    right = hard + luck < share
    image = np.arange(images)
    return Answers(image, image if unit is None else unit, right)


CELLS = [cell("topk"), cell("tome"), cell("evit"), cell("deit", 1.0), cell("topk", 0.25)]
ANSWERS = {c.cell_id: answers(0.9 - 0.1 * n, seed=n) for n, c in enumerate(CELLS)}


def test_every_method_meets_the_baseline_and_every_other_at_its_rate():
    found = differences_table(CELLS, ANSWERS)
    assert {name: str(kind) for name, kind in found.dtypes.items()} == SCHEMAS["differences"]
    assert list(found.columns) == [
        "cell_a", "cell_b", "dataset", "method_a", "method_b", "capacity", "keep_rate", "seed",
        "n", "b", "c", "difference", "low", "high", "p", "q", "covers",
    ]  # fmt: skip
    pairs = list(zip(found["method_a"], found["method_b"], found["keep_rate"], strict=True))
    assert pairs == [
        ("topk", "deit", 0.25),
        *((method, "deit", 0.5) for method in ("topk", "tome", "evit")),
        *(("topk", "tome", 0.5), ("topk", "evit", 0.5), ("tome", "evit", 0.5)),
    ]
    assert set(found["covers"]) == {"images"}


def test_a_row_counts_the_images_that_only_one_gets_right():
    found = differences_table(CELLS, ANSWERS)
    (row,) = found[(found["method_a"] == "topk") & (found["method_b"] == "evit")].itertuples()
    topk, evit = (ANSWERS[name].right for name in (row.cell_a, row.cell_b))
    b, c = (topk & ~evit).sum(), (~topk & evit).sum()
    assert (row.n, row.b, row.c) == (IMAGES, b, c)
    assert row.difference == pytest.approx(100 * (topk.mean() - evit.mean()))
    exact = stats.binomtest(int(min(b, c)), int(b + c)).pvalue
    assert row.p == pytest.approx(exact - stats.binom.pmf(min(b, c), b + c, 0.5))
    assert row.low < row.difference < row.high
    at_rate = found[found["keep_rate"] == 0.5]
    assert at_rate["q"].to_numpy() == pytest.approx(stats.false_discovery_control(at_rate["p"]))


def test_units_widen_the_interval_by_what_their_images_have_in_common():
    unit = np.arange(IMAGES) // 10
    right = {}
    for n, name in enumerate(("topk", "tome")):
        of_unit = np.random.default_rng(n).random(IMAGES // 10)
        right[name] = of_unit[unit] < 0.7
    cells = [cell("topk"), cell("tome")]
    alone, together = (
        difference_rows(
            cells,
            {c.cell_id: Answers(np.arange(IMAGES), of, right[c.method]) for c in cells},
        )[0]
        for of in (np.arange(IMAGES), unit)
    )
    assert together["difference"] == alone["difference"]
    widths = [row["high"] - row["low"] for row in (together, alone)]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.1)
    assert together["p"] > alone["p"]
    low, high = Answers(np.arange(IMAGES), unit, right["topk"]).interval
    narrow = Answers(np.arange(IMAGES), np.arange(IMAGES), right["topk"]).interval
    assert (high - low) / (narrow[1] - narrow[0]) == pytest.approx(np.sqrt(10), rel=0.1)


def test_several_seeds_have_rows_of_their_own_and_one_over_all():
    cells = [cell(method, seed=seed) for method in ("topk", "tome") for seed in (0, 1, 2)]
    shares = dict(zip([c.cell_id for c in cells], (0.9, 0.8, 0.85, 0.7, 0.72, 0.74), strict=True))
    given = {name: answers(share, seed=n) for n, (name, share) in enumerate(shares.items())}
    found = differences_table(cells, given)
    assert found["seed"].tolist() == [0, 1, 2, pd.NA]
    assert found["covers"].tolist() == ["images"] * 3 + ["images and training"]
    overall = found.iloc[3]
    assert overall[["cell_a", "cell_b", "b", "c"]].isna().all()
    each = found["difference"].to_numpy()[:3]
    right = np.array([given[c.cell_id].right for c in cells]).reshape(2, 3, IMAGES)
    assert overall["difference"] == pytest.approx(each.mean())
    error, quantile = two_way(100.0 * (right[0] ^ right[1]) * np.sign(right[0] * 1.0 - right[1]))
    half = quantile(0.025) * error
    assert (overall["low"], overall["high"]) == pytest.approx(
        (each.mean() - half, each.mean() + half)
    )
    assert quantile(overall["p"] / 2) * error == pytest.approx(abs(each.mean()))


def two_way(values):
    """Error of the mean of [seeds, images] by the mean squares of two-way analysis of variance."""
    seeds, images = values.shape
    grand = values.mean()
    of_seeds = images * sum((row.mean() - grand) ** 2 for row in values) / (seeds - 1)
    of_images = seeds * sum((column.mean() - grand) ** 2 for column in values.T) / (images - 1)
    rest = sum(
        (values[s, i] - values[s].mean() - values[:, i].mean() + grand) ** 2
        for s in range(seeds)
        for i in range(images)
    ) / ((seeds - 1) * (images - 1))
    parts = of_seeds / values.size, (of_images - rest) / values.size

    def quantile(tail):
        weighed = zip(parts, (seeds - 1, images - 1), strict=True)
        return sum(part * stats.t.isf(tail, freedom) for part, freedom in weighed) / sum(parts)

    return np.sqrt(sum(parts)), quantile


def test_seeds_that_agree_leave_the_images():
    cells = [cell(method, seed=seed) for method in ("topk", "tome") for seed in (0, 1)]
    given = {c.cell_id: answers(0.9 if c.method == "topk" else 0.8, seed=7) for c in cells}
    row = differences_table(cells, given).iloc[2]
    difference = 100 * (given["topk-0.5-0"].right * 1.0 - given["tome-0.5-0"].right)
    half = stats.t.isf(0.025, IMAGES - 1) * np.sqrt(difference.var(ddof=1) / IMAGES)
    assert row["high"] - row["low"] == pytest.approx(2 * half)
    same = {c.cell_id: answers(0.9, seed=7) for c in cells}
    row = differences_table(cells, same).iloc[2]
    assert row[["difference", "low", "high", "p"]].tolist() == [0, 0, 0, 1]


def test_seeds_of_several_labels_add_what_differs_between_them():
    cells = [cell(method, seed=seed) for method in ("topk", "tome") for seed in (0, 1)]
    given = {c.cell_id: multi(0.9 if c.method == "topk" else 0.5, n) for n, c in enumerate(cells)}
    row = differences_table(cells, given).iloc[2]
    score, drawn = (
        np.array([getattr(given[f"topk-0.5-{n}"], what) - getattr(given[f"tome-0.5-{n}"], what)
                  for n in (0, 1)]) for what in ("score", "resampled")
    )  # fmt: skip
    of_seeds = (score[0] - score[1]) ** 2 / 4
    of_images = drawn.mean(axis=0).var(ddof=1) - ((drawn[0] - drawn[1]) / 2).var(ddof=1)
    of_images = max(of_images, 0)
    weighed = of_seeds * stats.t.isf(0.025, 1) + of_images * stats.t.isf(0.025, 119)
    half = weighed / np.sqrt(of_seeds + of_images)
    assert row["high"] - row["low"] == pytest.approx(2 * half)


def multi(share, seed):
    random = np.random.default_rng(seed)
    shown = np.random.default_rng(5).random((120, 3)) < 0.4
    scores = shown * share + random.random((120, 3))
    rows = {"image": range(120), "target": [np.flatnonzero(r) for r in shown]}
    return Answers.of(prediction_arrays(pd.DataFrame(rows | {"scores": list(scores)})))


def test_several_labels_are_compared_on_the_same_resamples():
    cells = [cell("topk"), cell("tome")]
    given = {c.cell_id: multi(share, 1) for c, share in zip(cells, (0.9, 0.3), strict=True)}
    (row,) = difference_rows(cells, given)
    a, b = (given[c.cell_id] for c in cells)
    assert row["difference"] == pytest.approx(a.accuracy - b.accuracy)
    drawn = np.quantile(a.resampled - b.resampled, [0.025, 0.975])
    assert (row["low"], row["high"]) == pytest.approx(tuple(drawn))
    assert row["p"] == pytest.approx(2 / 1001)
    assert "b" not in row
    (unpaired,) = differences_table(cells, given).itertuples()
    assert unpaired.b is pd.NA


@pytest.mark.parametrize("made", [answers(0.7), multi(0.5, 2)])
def test_answers_survive_being_written(made):
    again = Answers.from_row(made.as_row())
    for name in ("image", "unit", "right", "score", "resampled"):
        assert np.array_equal(getattr(again, name), getattr(made, name), equal_nan=name == "score")


def test_images_out_of_order_are_put_in_order():
    rows = pd.DataFrame({"image": [2, 0, 1], "target": [5, 5, 5], "class_1": [5, 1, 5]})
    made = Answers.of(prediction_arrays(rows.assign(unit=[7, 8, 7])))
    assert (made.right.tolist(), made.unit.tolist()) == ([False, True, True], [8, 7, 7])


def test_other_images_are_an_error():
    given = ANSWERS | {CELLS[0].cell_id: answers(0.5, images=7)}
    with pytest.raises(ValueError, match="not evaluated on the same images"):
        differences_table(CELLS, given)


def test_pairs_cost_the_same_within_five_percent():
    cells = [cell("topk", gmacs=1.0), cell("tome", gmacs=1.3), cell("tome", 0.25, gmacs=1.04)]
    given = {c.cell_id: answers(0.8, seed=n) for n, c in enumerate(cells)}
    found = pairwise_table(cells, given)
    assert {name: str(kind) for name, kind in found.dtypes.items()} == SCHEMAS["pairwise"]
    pairs = found[["keep_rate_a", "keep_rate_b", "same_cost"]].to_numpy().tolist()
    assert pairs == [[0.5, 0.5, False], [0.5, 0.25, True]]
    assert found["q"].isna().tolist() == [True, False]
    assert found["q"][1] == found["p"][1]
    unknown = [cell(c.method, c.keep_rate, gmacs=None) for c in cells]
    assert not any(row["same_cost"] for row in pairwise_rows(unknown, given))


def test_series_without_a_common_seed_are_not_compared():
    cells = [cell("topk", seed=0), cell("tome", seed=1)]
    assert pairwise_rows(cells, {c.cell_id: answers(0.8) for c in cells}) == []


def test_tables_of_cells_and_seeds_have_the_intervals():
    cells = [cell("topk", seed=seed) for seed in (0, 1)]
    given = {c.cell_id: answers(0.8, seed=c.seed) for c in cells}
    cells = [
        CellRecord(**{**vars(c), "metrics": {**c.metrics, "accuracy": given[c.cell_id].accuracy}})
        for c in cells
    ]
    results = results_table(cells, given)
    expected = stats.binomtest(int(given[cells[0].cell_id].right.sum()), IMAGES)
    low, high = expected.proportion_ci(method="wilson")
    assert results["accuracy_low"][0] == pytest.approx(100 * low)
    assert results["accuracy_high"][0] == pytest.approx(100 * high)
    (row,) = seeds_table(results, given).itertuples()
    assert (row.accuracy_low, row.accuracy_high) == mean_interval(list(given.values()))
    assert row.covers == "images and training"
    assert row.accuracy_low < row.accuracy_mean < row.accuracy_high
    (alone,) = seeds_table(results[:1], given).itertuples()
    assert (alone.accuracy_low, alone.covers) == (results["accuracy_low"][0], "images")


def test_all_pairs_of_a_large_dataset_take_seconds():
    methods = [f"method{n}" for n in range(13)]
    cells = [cell(m, rate) for m in methods for rate in (0.25, 0.5, 0.7, 0.9)]
    cells.append(cell("deit", 1.0))
    cells = [
        CellRecord(**{**vars(c), "capacity": size, "cell_id": f"{c.cell_id}-{size}"})
        for size in ("tiny", "small", "base")
        for c in cells
    ]
    assert len(cells) == 159
    random = np.random.default_rng(0)
    image = np.arange(50_000)
    given = {c.cell_id: Answers(image, image, random.random(50_000) < 0.8) for c in cells}
    began = time.process_time()
    assert len(differences_table(cells, given)) == 3 * 4 * (13 + 13 * 12 // 2)
    assert len(pairwise_table(cells, given)) == 3 * (52 + 16 * 13 * 12 // 2)
    assert time.process_time() - began < 20
