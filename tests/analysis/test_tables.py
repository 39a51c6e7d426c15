from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from whole_tables import compare, depth_maps_table, heatmaps_table, tokens_table

from analysis.comparisons import pairs
from analysis.earlier_tables import completed
from analysis.heatmaps import METRICS, compare_maps
from analysis.records import CellRecord
from analysis.tables import SCHEMAS, results_table, table

RECORD = CellRecord(
    cell_id="c", dataset="digits", method="topk", family="pruning", capacity="tiny",
    keep_rate=0.5, stages=(3, 6), seed=0,
)  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_columns_have_their_types_without_rows(name):
    empty = table(name, [])
    assert {column: str(kind) for column, kind in empty.dtypes.items()} == SCHEMAS[name]
    assert len(empty) == 0


def test_results_show_every_cell_in_its_state():
    done = replace(
        RECORD,
        state="done",
        metrics={
            "metric": "top1", "accuracy": 91.5, "top1": 91.5, "top5": 99.0, "images": 360,
            "tokens": {"3": 32.0, "6": 16.0}, "gmacs": 0.1, "parameters": 900_000,
        },
        progress={"epoch": 3, "epochs": 3},
    )  # fmt: skip
    failed = replace(RECORD, cell_id="f", state="failed", error="out of memory")
    found = results_table([done, failed])
    assert found["state"].tolist() == ["done", "failed"]
    assert found["tokens"].tolist() == [[32.0, 16.0], None]
    assert found["stages"].tolist() == [[3, 6], [3, 6]]
    assert found["accuracy"][0] == 91.5
    assert np.isnan(found["accuracy"][1])
    assert found["parameters"][0] == 900_000
    assert found["epoch"].tolist() == [3, pd.NA]
    assert found["error"].tolist() == [pd.NA, "out of memory"]
    assert found["note"].tolist() == [pd.NA, "not evaluated: the cell is failed"]
    assert {column: str(kind) for column, kind in found.dtypes.items()} == SCHEMAS["results"]


def test_tables_survive_parquet(tmp_path):
    found = results_table([replace(RECORD, metrics={"tokens": {"3": 32.0, "6": 16.0}}), RECORD])
    found.to_parquet(tmp_path / "results.parquet")
    back = pd.read_parquet(tmp_path / "results.parquet")
    assert back["tokens"][0].tolist() == [32.0, 16.0]
    assert back["tokens"][1] is None
    assert back.dtypes.to_dict() == found.dtypes.to_dict()


def test_tokens_and_depth_equal_the_published_study(study_cells, study_numbers, study_arrays):
    names = ["im-topk-small-0.5", "im-tome-small-0.5", "im-deit-small"]
    cells = [study_cells[name] for name in names]
    found = tokens_table(cells).set_index("cell_id")
    whole_model = found[found["stage"].isna()]
    assert whole_model.index.tolist() == names
    assert whole_model["depth_mean"].isna().tolist() == [False, True, False]
    assert whole_model["note"].isna().tolist() == [True, False, True]
    for name in names:
        numbers = study_numbers["token_statistics"][name]
        stages = found.loc[name].dropna(subset="stage")
        assert stages["stage"].tolist() == [3, 6, 9]
        assert stages["share_left_mean"].tolist() == pytest.approx(
            numbers["remaining_fraction_mean"][:3], abs=1e-9
        )
        whole = found.loc[name].query("stage.isna()")
        assert whole["depth_mean"].dropna().tolist() == pytest.approx(
            [numbers[key] for key in ("depth_mean",) if key in numbers], abs=1e-9
        )
    maps = depth_maps_table(cells)
    assert maps["cell_id"].unique().tolist() == [names[0], names[2]]
    one = maps[maps["cell_id"] == names[0]]
    place = one.query("row == 2 and column == 5").iloc[0]
    assert place["depth_mean"] == pytest.approx(
        study_arrays[f"{names[0]}/depth_mean_map"][2, 5], abs=1e-9
    )
    assert place["depth_std"] == pytest.approx(
        study_arrays[f"{names[0]}/depth_std_map"][2, 5], abs=1e-9
    )
    assert (one["images"] == 24).all()


def test_heatmaps_across_datasets_equal_the_published_study(study_cells, study_numbers):
    method = ("topk", "evit", "tome")
    cells = [cell for cell in study_cells.values() if cell.record.method in method]
    found = heatmaps_table(depth_maps_table(cells), [cell.record for cell in cells])
    found = found[found["comparison"] == "datasets"]
    published = {(row["A"], row["B"]): row for row in study_numbers["heatmaps"]}
    assert len(found) == 4
    for row in found.itertuples():
        assert (row.dataset, row.dataset_b, row.method_a) == ("im", "nab", row.method_b)
        assert row.emd == pytest.approx(published[row.cell_a, row.cell_b]["EMD_exact"], abs=1e-7)
        assert pd.isna(row.note)


def test_heatmaps_within_a_dataset_compare_methods_rates_and_capacities(study_cells):
    cells = [cell for cell in study_cells.values() if cell.record.method in ("topk", "evit")]
    records = [cell.record for cell in cells]
    maps = depth_maps_table(cells)
    found = heatmaps_table(maps, records)
    for comparison in ("models", "rates", "capacity"):
        rows = found[found["comparison"] == comparison]
        assert list(zip(rows["cell_a"], rows["cell_b"], strict=True)) == [
            (a.cell_id, b.cell_id) for a, b in pairs(records, comparison)
        ]
        assert len(rows) > 0
        assert (rows["dataset"] == rows["dataset_b"]).all()
    row = found[found["comparison"] == "rates"].iloc[0]
    a, b = (
        maps[maps["cell_id"] == row[side]]["depth_mean"].to_numpy().reshape(14, 14)
        for side in ("cell_a", "cell_b")
    )
    assert row[list(METRICS)].to_dict() == {
        name: value for name, value in compare_maps(a, b).items() if name != "note"
    }


def test_heatmaps_of_different_grids_are_missing_with_the_reason(study_cells):
    cells = [study_cells["im-topk-small-0.5"], study_cells["im-evit-small-0.5"]]
    maps = depth_maps_table(cells)
    smaller = (maps["cell_id"] == "im-evit-small-0.5") & (maps["row"] >= 7)
    (row,) = heatmaps_table(maps[~smaller], [cell.record for cell in cells]).itertuples()
    assert row.note == "grids of 14 x 14 and 7 x 14 patches"
    assert pd.isna(row.jsd)


def test_rows_of_a_comparison_fill_their_table(study_cells):
    a, b = study_cells["im-dpcknn-small-0.7"], study_cells["im-kmedoids-small-0.7"]
    rows = compare(a, b, "models")
    for name in ("pruning", "merging"):
        found = table(name, rows[name])
        assert len(found) == 6
        assert set(rows[name][0]) == set(SCHEMAS[name])
        assert found["note"].isna().all()
        assert not found.drop(columns="note").isna().any(axis=None)


def test_a_table_of_an_earlier_version_gets_the_columns_it_lacks():
    rows = [{"cell_id": "a", "dataset": "digits", "keep_rate": 0.5, "seed": 0,
             "meets_every_rate": True, "accuracy": 50.0}]  # fmt: skip
    whole = table("results", rows)
    earlier = whole.drop(columns=["speed_up", "accuracy_low", "note"])
    pd.testing.assert_frame_equal(completed("results", earlier), whole)
    assert completed("results", whole) is whole
    assert completed("results", whole.drop(columns=["seed"])) is None
    empty = completed("results", table("results", []).drop(columns=["seed"]))
    assert list(empty) == list(whole)
