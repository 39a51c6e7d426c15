"""What the table `speed` says, which device is the study's, and what `results` takes of it."""

from dataclasses import replace

import pandas as pd
import pytest

from analysis.records import CellRecord
from analysis.speeds import MeasuredCell, main_device, measured_records, speed_table, with_speed
from analysis.tables import SCHEMAS, results_table

CELL = CellRecord(
    cell_id="topk-s0", dataset="digits", method="topk", family="pruning", capacity="tiny",
    keep_rate=0.5, stages=(3, 6), seed=0, state="done", metrics={"accuracy": 90.0},
)  # fmt: skip
OTHER = replace(CELL, cell_id="tome-s0", method="tome")
AT_LOWER_RATE = replace(CELL, eval_keep_rate=0.25)
GPU = {"device": "H200", "device_type": "cuda", "torch": "2", "timm": "1"}
CPU = {"device": "EPYC, 2 threads", "device_type": "cpu", "torch": "2", "timm": "1"}


def found(speed_up, by_study=True, **others):
    return {
        "by_study": by_study,
        "precision": "float32",
        "compiled": False,
        "rounds": 7,
        "host_images_per_second": [9.0, 10.0, 11.0],
        "images_per_second": [10.0 * speed_up - 1, 10.0 * speed_up, 10.0 * speed_up + 1],
        "speed_up": [speed_up - 0.1, speed_up, speed_up + 0.1],
        "host_latency_ms": [4.0, 5.0],
        "latency_ms": [2.0, 3.0],
        "host_peak_memory_mb": 8.0,
        "peak_memory_mb": 6.0,
        "tokens": {"3": 32.0, "6": 16.5},
        "disturbed": False,
        "tries": 1,
        "note": None,
        **others,
    }


def measured(speed_up, record=CELL, device=GPU, batch_size=32, **others):
    return MeasuredCell(record, "key", device, batch_size, found(speed_up, **others))


def test_a_row_has_medians_and_quartiles():
    table = speed_table([measured(2.0)])
    assert {column: str(kind) for column, kind in table.dtypes.items()} == SCHEMAS["speed"]
    (row,) = table.to_dict(orient="records")
    assert (row["cell_id"], row["device"], row["batch_size"]) == ("topk-s0", "H200", 32)
    assert (row["speed_up_low"], row["speed_up"], row["speed_up_high"]) == (1.9, 2.0, 2.1)
    assert (row["images_per_second"], row["images_per_second_high"]) == (20.0, 21.0)
    assert row["host_images_per_second_low"] == 9.0
    assert row["tokens"] == [32.0, 16.5]
    assert (row["eval_keep_rate"], row["main"], row["torch"]) == (0.5, True, "2")


def test_latencies_are_of_single_images():
    table = speed_table([measured(2.0, batch_size=1), measured(2.0, batch_size=32)])
    latencies = table[["host_latency_ms", "host_latency_p95_ms", "latency_ms", "latency_p95_ms"]]
    assert latencies.iloc[0].tolist() == [4.0, 5.0, 2.0, 3.0]
    assert latencies.iloc[1].isna().all()


def test_what_could_not_be_measured_has_a_row_with_a_note():
    nothing = {"by_study": True, "disturbed": False, "note": "the GPU's memory is too small"}
    (row,) = speed_table([MeasuredCell(CELL, "key", GPU, 128, nothing)]).to_dict(orient="records")
    assert pd.isna(row["speed_up"])
    assert pd.isna(row["rounds"])
    assert row["tokens"] is None
    assert row["note"] == "the GPU's memory is too small"


def test_nothing_measured_is_a_table_without_rows():
    assert len(speed_table([])) == 0
    assert main_device([]) is None


@pytest.mark.parametrize(
    ("rows", "main"),
    [
        ([measured(2), measured(2, device=CPU)], "H200"),
        ([measured(2), measured(2, device=CPU), measured(2, OTHER, CPU)], "EPYC, 2 threads"),
        ([measured(2, by_study=False), measured(2, device=CPU)], "EPYC, 2 threads"),
        ([measured(2, by_study=False), measured(2, device=CPU, by_study=False)], "H200"),
    ],
)
def test_the_main_device_is_where_the_study_was_measured(rows, main):
    assert main_device(rows) == main
    table = speed_table(rows)
    assert set(table.loc[table["main"], "device"]) == {main}


def test_results_have_the_largest_batch_of_the_main_device():
    rows = [
        measured(1.5, batch_size=1),
        measured(2.0, batch_size=32),
        measured(1.2, AT_LOWER_RATE, batch_size=32),
        measured(9.9, device=CPU, batch_size=64, by_study=False),
    ]
    results = results_table([OTHER, CELL, AT_LOWER_RATE])
    joined = with_speed(results, speed_table(rows))
    assert joined["cell_id"].tolist() == ["tome-s0", "topk-s0", "topk-s0"]
    assert joined["speed_up"].tolist()[1:] == [2.0, 1.2]
    assert joined["images_per_second"].tolist()[1:] == [20.0, 12.0]
    assert joined["latency_ms"].tolist()[1] == 2.0
    assert joined["peak_memory_mb"].tolist()[1:] == [6.0, 6.0]
    assert pd.isna(joined["speed_up"][0])
    assert pd.isna(joined["latency_ms"][2])
    assert joined.dtypes.equals(results.dtypes)


def test_results_lose_what_is_not_known_any_more():
    results = with_speed(results_table([CELL]), speed_table([measured(2.0)]))
    again = with_speed(results, speed_table([]))
    assert again["speed_up"].isna().all()
    assert again["latency_ms"].isna().all()


def test_results_without_rows_stay_without():
    results = with_speed(results_table([]), speed_table([measured(2.0)]))
    assert results.empty
    assert {column: str(kind) for column, kind in results.dtypes.items()} == SCHEMAS["results"]


def test_evaluations_do_not_say_how_fast_a_cell_is():
    timed = replace(CELL, metrics={"accuracy": 90.0, "images_per_second": 1.0})
    results = results_table([timed])
    assert results["images_per_second"].isna().all()
    (record,) = measured_records([timed], results)
    assert record.metrics == {"accuracy": 90.0}


def test_records_have_what_results_say_of_their_own_rate():
    rows = [measured(2.0), measured(3.0, AT_LOWER_RATE)]
    results = with_speed(results_table([CELL, AT_LOWER_RATE]), speed_table(rows))
    (record,) = measured_records([CELL], results)
    assert record.metrics["speed_up"] == 2.0
    assert "latency_ms" not in record.metrics
