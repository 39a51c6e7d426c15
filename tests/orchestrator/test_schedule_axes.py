"""Cells that are asked for numbers of tokens: compared with those that are left as many."""

from math import isnan

import pandas as pd
import pytest
import torch
import yaml
from launching import BRIEFLY, ONE_STEP_EPOCH

from analysis.comparisons import pairs
from analysis.latex import accuracy_tables
from analysis.records import CellRecord, asked_for, cells_at_rate, rate_in_words
from analysis.seeds import seeds_table
from analysis.tables import results_table
from orchestrator.results.cell_records import record_of
from orchestrator.store.store import Store
from trainables.cell.cell import Cell
from trainables.evaluation import evaluate_cell
from trainables.models.host import build_model
from trainables.recipe import Recipe

LEFT = (16 / 64) ** (1 / 3)
"""Keep rate that asks for 16 of 64 patches after the last of three stages."""
HOST = {"host": "digits_tiny_patch4_32", "image_size": 32, "crop_ratio": 1.0}


def record(method, rate=LEFT, schedule="r=16", seed=0, **others):
    fields = {"dataset": "digits", "family": "pruning", "capacity": "tiny", "stages": (3, 6, 9)}
    fields["state"] = "done"
    name = f"{method}-{schedule}"
    metrics = {"metric": "top1", "accuracy": 50.0}
    return CellRecord(cell_id=f"{name}-{seed}", method=method, keep_rate=rate, seed=seed,
                      schedule=schedule, series=name, metrics=metrics,
                      **fields | others)  # fmt: skip


TOPK, TOME, TOKENS = record("topk"), record("tome"), record("topk", schedule="tokens=48,30,16")
HALF = record("topk", rate=0.5, schedule=None)


def test_methods_are_compared_at_the_same_schedule():
    found = [(a.cell_id, b.cell_id) for a, b in pairs([TOPK, TOME, TOKENS], "models")]
    assert found == [("topk-r=16-0", "tome-r=16-0")]
    rates = [(a.cell_id, b.cell_id) for a, b in pairs([TOPK, HALF], "rates")]
    assert rates == [("topk-r=16-0", "topk-None-0")]


def test_cells_meet_where_as_many_tokens_are_left():
    cells = [TOPK, TOME, TOKENS, HALF]
    assert cells_at_rate(cells, LEFT) == [TOPK, TOME, TOKENS]
    assert rate_in_words(cells, LEFT) == "r=16 and tokens=48,30,16"
    assert rate_in_words(cells, 0.5) == "0.5"
    assert (asked_for("0.5"), asked_for("r=16")) == ("keep rate 0.5", "r=16")


def test_tables_name_the_schedule():
    results = results_table([TOPK, TOME, HALF])
    assert list(results["schedule"].fillna("")) == ["r=16", "r=16", ""]
    (table,) = accuracy_tables(seeds_table(results), "study").values()
    assert "Method & 0.5 & r=16" in table


def test_a_cell_that_is_not_evaluated_has_a_row_all_the_same():
    seeds = seeds_table(results_table([record("topk", rate=float("nan"), state="pending")]))
    assert list(seeds["schedule"]) == ["r=16"]


def test_an_evaluation_finds_the_keep_rate_that_leaves_as_many():
    cell = Cell(dataset="digits", method="tome", capacity="tiny", reduction_loc=(3, 6, 9), r=16,
                recipe=Recipe(**HOST))  # fmt: skip
    weights = build_model(cell, 10).state_dict()
    found = evaluate_cell(cell, weights, data_root=None, device=torch.device("cpu"), threads=1)
    assert found.metrics["keep_rate"] == pytest.approx(LEFT, abs=1e-6)
    assert found.metrics["tokens"] == {"3": 48.0, "6": 32.0, "9": 16.0}


def study():
    grid = {"dataset": ["digits"], "capacity": ["tiny"]}
    return {
        "name": "axes",
        "defaults": {"reduction_loc": [3, 6, 9], "recipe": "r"},
        "grids": [
            grid | {"method": ["deit"]},
            grid | {"method": ["topk", "tome"], "r": [16]},
            grid | {"method": ["topk"], "tokens": [[48, 32, 20]]},
            grid | {"method": ["topk"], "keep_rate": [0.5]},
        ],
        "recipes": {"r": ONE_STEP_EPOCH},
        "measure": BRIEFLY,
    }


def test_an_unfinished_cell_has_no_rate_yet(tmp_path):
    cell = Cell(dataset="digits", method="topk", capacity="tiny", reduction_loc=(3,), r=8,
                recipe=Recipe(**HOST))  # fmt: skip
    store = Store(tmp_path)
    store.create({"name": "s", "versions": {}, "git_commit": None}, [cell])
    found = record_of(store.cell(cell.id))
    assert (found.schedule, isnan(found.keep_rate)) == ("r=8", True)


@pytest.mark.slow
def test_a_study_of_all_three_budgets(tmp_path, launch_study):
    """From the file to tables and page."""
    file = tmp_path / "axes.yaml"
    file.write_text(yaml.safe_dump(study()))
    finished = launch_study(tmp_path, study=str(file))
    assert finished.status == 0, finished.output
    tables = {
        name: pd.read_parquet(finished.store.path / "tables" / f"{name}.parquet")
        for name in ("results", "pairwise", "differences", "budgets", "speed")
    }
    results = tables["results"].set_index("cell_id")
    by_id = {name.rsplit("-", 2)[0]: row for name, row in results.iterrows()}
    assert list(by_id) == [
        "digits-deit-tiny-r1", "digits-topk-tiny-minus16", "digits-tome-tiny-minus16",
        "digits-topk-tiny-tokens48.32.20", "digits-topk-tiny-r0.5",
    ]  # fmt: skip
    topk, tome = by_id["digits-topk-tiny-minus16"], by_id["digits-tome-tiny-minus16"]
    assert list(topk["tokens"]) == list(tome["tokens"]) == [48, 32, 16]
    assert topk["keep_rate"] == tome["keep_rate"] == pytest.approx(LEFT, abs=1e-6)
    pairwise = tables["pairwise"]
    assert len(pairwise) == 7  # Every two but those of one method.
    both = pairwise[(pairwise["method_a"] == "topk") & (pairwise["method_b"] == "tome")]
    at_r = both[both["keep_rate_a"] == both["keep_rate_b"]]
    assert list(at_r["same_cost"]) == [True]
    assert set(tables["budgets"]["schedule"].dropna()) == {"r=16", "tokens=48,32,20"}
    assert tables["speed"]["speed_up"].notna().all()
    page = (finished.store.path / "report" / "index.html").read_text()
    assert "r=16" in page
