"""The page's part on features: its numbers, and what it says where more budget does not help."""

import numpy as np
import pandas as pd
import pytest

from analysis.answers import Answers, prediction_arrays
from analysis.records import CellRecord
from analysis.report.embeddings import monotone_in_words, of_features, without_labels
from analysis.report.page import render
from analysis.report.report_context import ReportContext
from analysis.tables import results_table

IMAGES = 20


def record(method, rate, cosine, left, capped=None, **more):
    return CellRecord(
        cell_id=f"{method}-{rate}",
        dataset="images",
        method=method,
        family="baseline" if method == "deit" else "merging",
        capacity="small",
        keep_rate=rate,
        stages=(3, 6),
        seed=0,
        series=f"{method}-{rate}",
        state="done",
        meets_every_rate=method == "deit",
        metrics={
            "metric": "cosine", "accuracy": cosine, "cosine": cosine, "cosine_p5": cosine - 9,
            "neighbours": 61.5, "images": IMAGES, "gmacs": rate, "parameters": 5,
            "tokens": {"3": left, "6": left / 2}, "capped": capped or {}, "select_on": "val",
            **more,
        },
    )  # fmt: skip


@pytest.fixture
def records():
    return [
        record("deit", 1.0, 100.0, 64),
        record("tome", 0.25, 97.9, 32, {"3": 16, "6": 4}),
        record("tome", 0.5, 96.8, 32),
        record("tome", 0.7, 99.9, 44),
    ]


@pytest.fixture
def tables(records):
    random = np.random.default_rng(0)
    given = {}
    for each in records:
        cosine = each.metrics["cosine"] + random.normal(size=IMAGES) * (each.family != "baseline")
        images = {"image": np.arange(IMAGES), "cosine": cosine, "neighbours": cosine / 2}
        given[each.cell_id] = Answers.of(prediction_arrays(pd.DataFrame(images)))
    return {"results": results_table(records, given)}


def test_the_table_has_every_number_with_its_interval(records, tables):
    html = of_features(ReportContext(records, tables, {}))
    row = tables["results"].set_index("cell_id").loc["tome-0.5"]
    assert f"96.80 [{row['accuracy_low']:.2f}, {row['accuracy_high']:.2f}]" in html
    assert f"61.50 [{row['neighbours_low']:.2f}, {row['neighbours_high']:.2f}]" in html
    assert "32 · 16 (capped)" in html
    assert html.count("<tr>") == 1 + len(records)


def test_the_page_says_what_the_numbers_are(records, tables):
    page = render("mine", records, tables, {}).page
    assert "100 times the mean cosine of an image&#x27;s pooled feature" in page
    assert "picked on the images" not in page


def test_a_cap_that_binds_is_named_where_more_budget_is_worse(records):
    assert monotone_in_words(records) == (
        "With more tokens the mean cosine of every method rises, but for: tome on images · small, "
        "97.90 at 0.25 and 96.80 at 0.5 (it removes no more tokens at a block at 0.25: it leaves "
        "32 for 16 after block 3, 16 for 4 after block 6)."
    )


def test_nothing_is_excepted_where_all_rise(records):
    assert monotone_in_words(records[2:]).endswith("of every method rises, or stays.")


def test_a_study_of_labels_has_no_such_part(report_records, report_tables):
    assert of_features(ReportContext(report_records, report_tables, {})) == ""
    assert not without_labels(report_records)


def test_answers_need_labels(records):
    assert without_labels(records)
    assert not without_labels([record("tome", 0.5, 96.8, 32, knn=80.0)])
