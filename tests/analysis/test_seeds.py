"""Seeds as mean, sample standard deviation and count; what is not known is told."""

import statistics
from dataclasses import replace

import pandas as pd
import pytest

from analysis.records import CellRecord
from analysis.seeds import seeds_table
from analysis.tables import SCHEMAS, results_table

CELL = CellRecord(
    cell_id="", dataset="digits", method="topk", family="pruning", capacity="tiny",
    keep_rate=0.5, stages=(3, 6), seed=0, series="topk-0.5", state="done",
)  # fmt: skip
ACCURACIES = (91.0, 92.5, 90.0)


def record(seed, accuracy, **others):
    metrics = {"metric": "top1", "accuracy": accuracy, "top1": accuracy} if accuracy else {}
    cell_id = f"{others.get('series', CELL.series)}-s{seed}"
    return replace(CELL, cell_id=cell_id, seed=seed, metrics=metrics, **others)


def seeds_of(*records):
    found = seeds_table(results_table(records))
    assert {column: str(kind) for column, kind in found.dtypes.items()} == SCHEMAS["seeds"]
    return found


def test_seeds_become_mean_sample_deviation_and_count():
    found = seeds_of(*(record(seed, value) for seed, value in enumerate(ACCURACIES))).iloc[0]
    assert (found["cells"], found["n"], found["seeds"]) == (3, 3, [0, 1, 2])
    assert found["accuracy_mean"] == pytest.approx(statistics.fmean(ACCURACIES))
    assert found["accuracy_std"] == pytest.approx(statistics.stdev(ACCURACIES))
    assert (found["metric"], found["method"], found["stages"]) == ("top1", "topk", [3, 6])
    assert pd.isna(found["note"])


def test_unfinished_seeds_do_not_count_and_are_named():
    failed = record(1, None, state="failed")
    found = seeds_of(record(0, 91.0), failed, record(2, 90.0)).iloc[0]
    assert (found["cells"], found["n"], found["seeds"]) == (3, 2, [0, 2])
    assert found["accuracy_mean"] == pytest.approx(90.5)
    assert found["note"] == "seed 1 is failed"


def test_one_seed_has_no_standard_deviation():
    found = seeds_of(record(4, 91.0)).iloc[0]
    assert (found["n"], found["accuracy_mean"]) == (1, 91.0)
    assert pd.isna(found["accuracy_std"])
    assert found["note"] == "one seed has no standard deviation"


def test_nothing_done_has_no_numbers():
    found = seeds_of(record(0, None, state="pending")).iloc[0]
    assert (found["cells"], found["n"], found["seeds"]) == (1, 0, [])
    assert pd.isna(found["accuracy_mean"])
    assert found["note"] == "seed 0 is pending"


def test_other_series_and_rates_of_evaluation_stay_apart():
    cells = [
        record(0, 91.0),
        record(0, 80.0, series="imported", imported="me/project/run"),
        record(0, 70.0, eval_keep_rate=0.25),
    ]
    found = seeds_of(*cells)
    assert found["accuracy_mean"].tolist() == [91.0, 80.0, 70.0]
    assert found["imported"].tolist() == [False, True, False]
    assert found["eval_keep_rate"].tolist() == [0.5, 0.5, 0.25]
    assert found["n"].tolist() == [1, 1, 1]


def test_a_study_without_cells_has_no_rows():
    assert len(seeds_of()) == 0
