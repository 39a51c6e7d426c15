"""The best that a budget buys: who takes part, what it loses, and who cannot be told apart."""

import numpy as np
import pandas as pd
import pytest

from analysis.answers import Answers
from analysis.budgets import budgets_table
from analysis.differences import pairwise_table
from analysis.records import CellRecord
from analysis.seeds import seeds_table
from analysis.tables import SCHEMAS, results_table

IMAGES = 2000
SHARES = {"topk": 0.9, "tome": 0.8995, "evit": 0.6, "sit": 0.5}
GMACS = {
    ("topk", 0.5): 0.6, ("topk", 0.25): 0.4, ("tome", 0.5): 0.8, ("tome", 0.25): 0.55,
    ("evit", 0.5): 0.6, ("evit", 0.25): 0.4, ("sit", 0.5): 0.5, ("sit", 0.25): 0.2,
}  # fmt: skip


def study(seeds=(0,)):
    hard = np.random.default_rng(0).random(IMAGES)
    records, answers = [], {}
    wanted = [("deit", 1.0, 0.95, 1.0)]
    wanted += [(m, rate, SHARES[m] - (rate == 0.25) / 10, g) for (m, rate), g in GMACS.items()]
    for number, (method, rate, share, gmacs) in enumerate(wanted):
        for seed in seeds:
            luck = np.random.default_rng([number, seed]).normal(0, 0.03, IMAGES)
            image = np.arange(IMAGES)
            name = f"{method}-{rate}"
            made = answers[f"{name}-{seed}"] = Answers(image, image, hard + luck < share)
            records.append(
                CellRecord(
                    cell_id=f"{name}-{seed}", dataset="d", method=method, capacity="tiny",
                    family="baseline" if method == "deit" else "pruning", keep_rate=rate,
                    stages=(3, 6), seed=seed, series=name, state="done",
                    metrics={"accuracy": made.accuracy, "top1": made.accuracy, "metric": "top1",
                             "gmacs": gmacs, "images": IMAGES},
                )
            )  # fmt: skip
    results = results_table(records, answers)
    return {
        "results": results,
        "seeds": seeds_table(results, answers),
        "pairwise": pairwise_table(records, answers),
    }


def at(found, by, budget, device=None):
    rows = found[(found["by"] == by) & (found["budget"] == budget)]
    return rows[rows["device"].isna() if device is None else rows["device"] == device]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_method_takes_part_with_what_costs_most_and_meets_the_budget(seeds):
    found = budgets_table(study(seeds))
    assert {name: str(kind) for name, kind in found.dtypes.items()} == SCHEMAS["budgets"]
    quarter, half, most = (at(found, "gmacs", budget) for budget in (0.25, 0.5, 0.75))
    rates = [
        dict(zip(rows["method"], rows["keep_rate"], strict=True)) for rows in (quarter, half, most)
    ]
    assert rates == [
        {"topk": 0.5, "tome": 0.25, "evit": 0.5, "sit": 0.5},
        {"topk": 0.25, "evit": 0.25, "sit": 0.5},
        {"sit": 0.25},
    ]
    assert half["gmacs_saved"].tolist() == pytest.approx([0.6, 0.6, 0.5])
    assert set(found["by"]) == {"gmacs", "keep_rate"}
    assert set(found["seeds"]) == {len(seeds)}


def test_the_best_is_the_set_of_those_that_cannot_be_told_from_it():
    tables = study()
    found = at(budgets_table(tables), "keep_rate", 0.5).set_index("method")
    assert found["in_best_set"].to_dict() == {
        "topk": True, "tome": True, "evit": False, "sit": False
    }  # fmt: skip
    assert found["is_best"].sum() == 1
    best = found.index[found["is_best"]][0]
    pairs = tables["pairwise"]
    same = pairs[(pairs["keep_rate_a"] == 0.5) & (pairs["keep_rate_b"] == 0.5)]
    against = same[(same["method_a"] == best) | (same["method_b"] == best)]
    p = np.sort(against["p"])
    expected = np.minimum(np.maximum.accumulate(p * [3, 2, 1]), 1)
    assert np.sort(found["p_holm"].dropna()) == pytest.approx(expected)
    accuracy = tables["results"].set_index("series")["accuracy"]
    for row in found.itertuples():
        assert row.difference == pytest.approx(accuracy[row.series] - accuracy["deit-1.0"])
        assert row.low < row.difference < row.high
        assert row.behind == pytest.approx(found["accuracy"].max() - row.accuracy)


def test_what_no_method_meets_has_no_rows():
    tables = study()
    tables["seeds"] = tables["seeds"][tables["seeds"]["method"] != "sit"]
    assert len(at(budgets_table(tables), "gmacs", 0.75)) == 0


def test_one_method_alone_is_the_best_of_its_budget():
    (row,) = at(budgets_table(study()), "gmacs", 0.75).itertuples()
    assert (row.method, row.is_best, row.in_best_set) == ("sit", True, True)


def test_measured_speed_has_budgets_on_every_device():
    tables = study()
    cells = tables["results"][["cell_id", "keep_rate", "eval_keep_rate"]]
    speed_up = dict(zip(cells["cell_id"], (1, 1.4, 1.9, 1.2, 1.6, 1.4, 2.5, 3.5, 4.0), strict=True))
    speed = pd.concat(
        [
            cells.assign(device=device, main=main, batch_size=size, peak_memory_mb=100.0 * size,
                         speed_up=[factor * speed_up[cell] for cell in cells["cell_id"]])
            for device, main, factor, size in
            (("gpu", True, 1, 32), ("gpu", True, 9, 1), ("cpu", False, 0.8, 32))
        ]
    )  # fmt: skip
    found = budgets_table({**tables, "speed": speed})
    on_gpu = at(found, "speed_up", 1.5, "gpu").set_index("method")
    assert on_gpu["speed_up"].to_dict() == {"topk": 1.9, "tome": 1.6, "evit": 2.5, "sit": 3.5}
    assert set(on_gpu["peak_memory_mb"]) == {3200.0}
    on_cpu = at(found, "speed_up", 1.5, "cpu").set_index("method")
    assert on_cpu["speed_up"].to_dict() == pytest.approx({"topk": 1.52, "evit": 2.0, "sit": 2.8})
    assert at(found, "gmacs", 0.5)["speed_up"].notna().all()


def test_what_shares_no_seed_with_the_best_is_not_told_from_it():
    tables = study()
    tables["pairwise"] = tables["pairwise"].iloc[:0]
    found = at(budgets_table(tables), "keep_rate", 0.5)
    assert found["in_best_set"].all()
    assert found["difference"].isna().all()
    assert found["note"].str.contains("shares no seed with").all()


def test_a_study_without_results_has_no_budgets():
    results = results_table([])
    empty = {"results": results, "seeds": seeds_table(results), "pairwise": pairwise_table([], {})}
    assert len(budgets_table(empty)) == 0


def test_cells_measured_before_they_have_results_are_passed_over():
    tables = study()
    cell = {"cell_id": "new", "keep_rate": 0.5, "eval_keep_rate": 0.5, "batch_size": 32}
    speed = pd.DataFrame([cell | {"device": "gpu", "main": True, "speed_up": 2.0,
                                  "peak_memory_mb": 1.0}])  # fmt: skip
    found = budgets_table({**tables, "results": tables["results"].iloc[:0], "speed": speed})
    assert set(found["by"]) == {"gmacs", "keep_rate"}
