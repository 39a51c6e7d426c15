"""What a cell answered: features against loops over drawn images."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.answers import Answers, prediction_arrays
from analysis.differences import cell_rows
from analysis.intervals import resampled_mean, resampled_quantile, resamples
from analysis.records import CellRecord
from analysis.tables import results_table

IMAGES = 50


def predictions(shift=0.0, *, labelled=True, units=False):
    random = np.random.default_rng(0)
    found = pd.DataFrame({"image": np.arange(IMAGES)})
    found["cosine"] = 100 - random.exponential(5, IMAGES) - shift
    found["neighbours"] = 10.0 * random.integers(11, size=IMAGES)
    if labelled:
        found["target"] = random.integers(3, size=IMAGES)
        found["class_1"] = random.integers(3, size=IMAGES)
    if units:
        found["unit"] = np.arange(IMAGES) // 4
    return found.sample(frac=1, random_state=0)


@pytest.mark.parametrize("size", [1, 4])
def test_resampled_means_and_quantiles_are_those_of_a_loop_over_drawn_units(size):
    values = np.random.default_rng(1).normal(size=IMAGES).round(1)  # Some are equal.
    unit = np.arange(IMAGES) // size
    means, quantiles = [], []
    for counts in resamples(unit.max() + 1).T:
        drawn = np.repeat(values, counts[unit])
        means.append(drawn.mean())
        quantiles.append(np.quantile(drawn, 0.05, method="inverted_cdf"))
    np.testing.assert_allclose(resampled_mean(values, unit), means, atol=1e-12)
    np.testing.assert_array_equal(resampled_quantile(values, unit, 0.05), quantiles)


def test_features_are_scored_by_their_mean_cosine_with_intervals_over_images():
    table = predictions()
    answers = Answers.of(prediction_arrays(table))
    assert answers.right is None
    assert answers.accuracy == pytest.approx(table["cosine"].mean())
    half = 1.96 * table["cosine"].std() / np.sqrt(IMAGES)
    low, high = answers.interval
    assert high - low == pytest.approx(2 * half, rel=0.15)
    assert low < answers.accuracy < high
    assert set(answers.intervals) == {"cosine_p5", "neighbours", "knn"}
    right = 100 * (table["target"] == table["class_1"]).mean()
    means = {"neighbours": table["neighbours"].mean(), "knn": right}
    for name, mean in means.items():
        low, high = answers.intervals[name]
        assert low < mean < high
    assert answers.intervals["cosine_p5"][1] < answers.interval[0]


def test_images_of_a_unit_make_intervals_wider():
    table = predictions()
    table["unit"] = table["cosine"].rank().astype(int) // 5
    wide, narrow = (Answers.of(prediction_arrays(t)).interval for t in (table, predictions()))
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_what_is_kept_of_answers_gives_them_back():
    answers = Answers.of(prediction_arrays(predictions(labelled=False, units=True)))
    again = Answers.from_row(json.loads(json.dumps(answers.as_row())))
    assert again.accuracy == answers.accuracy
    assert again.interval == answers.interval
    assert again.intervals == answers.intervals
    assert set(again.intervals) == {"cosine_p5", "neighbours"}
    np.testing.assert_array_equal(again.unit, answers.unit)


def test_other_answers_keep_what_they_have_kept_before():
    image = np.arange(4)
    assert set(Answers(image, image, image > 1).as_row()) == {
        "image", "unit", "right", "score", "resampled",
    }  # fmt: skip


def record(method, family, cosine):
    return CellRecord(
        cell_id=method, dataset="images", method=method, family=family, capacity="small",
        keep_rate=0.5, stages=(3,), seed=0, state="done",
        metrics={"metric": "cosine", "accuracy": cosine, "cosine": cosine, "images": IMAGES},
    )  # fmt: skip


def test_cells_differ_by_what_their_images_do_and_results_have_the_intervals():
    cells = [record("topk", "pruning", 93.0), record("deit", "baseline", 94.0)]
    given = {
        "topk": Answers.of(prediction_arrays(predictions(shift=1.0))),
        "deit": Answers.of(prediction_arrays(predictions())),
    }
    (row,) = cell_rows(cells, given)
    # Every image differs by the same.
    assert [row[name] for name in ("difference", "low", "high")] == pytest.approx([-1.0] * 3)
    assert row["p"] < 0.01
    first = results_table(cells, given).iloc[0]
    assert (first["accuracy_low"], first["accuracy_high"]) == given["topk"].interval
    assert (first["knn_low"], first["knn_high"]) == given["topk"].intervals["knn"]
