"""Simulated studies have the accuracies that they claim; what is drawn from them is calibrated."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from experiments.benchmarks import statistics_calibration as calibration
from experiments.benchmarks.made_answers import SeveralLabels, SingleLabel
from experiments.benchmarks.statistics_calibration import EXPERIMENTS, Share, run

BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}


@pytest.mark.parametrize("units", [None, 20_000])
def test_shares_of_right_answers_are_those_that_were_asked_for(units):
    asked = {"deit": 0.9, "topk": 0.7}
    world = SingleLabel(accuracy=asked, images=40_000, seeds=2, training=0.0, units=units)
    cells = world.draw(np.random.default_rng(0))
    assert len(cells.records) == len(cells.answers) == 4
    for record in cells.records:
        found = cells.answers[record.cell_id]
        assert found.has_units == (units is not None)
        assert found.accuracy == pytest.approx(cells.truth[record.method], abs=1.5)
        assert cells.truth[record.method] == 100 * asked[record.method]


def test_precision_over_all_images_is_that_of_very_many():
    world = SeveralLabels(strength={"topk": 1.2}, shown=0.1)
    random = np.random.default_rng(0)
    shown = random.random(200_000) < 0.1
    score = random.normal(size=200_000) + 1.2 * shown
    truth = replace(world, images=50, classes=2).draw(random).truth["topk"]
    assert truth == pytest.approx(100 * average_precision_score(shown, score), abs=0.5)


def test_what_lies_outside_its_bounds_is_marked():
    rows = [
        Share(f"x: interval {calibration.COVERS}", happened, 100).row() for happened in (91, 95)
    ]
    assert [row[""] for row in rows] == ["MISSED", ""]
    assert Share(f"x: test {calibration.REJECTS}", 8, 100).row()["target"] == "at most 0.07"
    assert Share(f"x: set {calibration.CONTAINS}", 94, 100).row()[""] == "MISSED"


def test_it_writes_a_table(tmp_path, capsys):
    calibration.main(["--only", "top-1, 100 images", "--scale", "0.01", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "statistics_calibration.json").read_text())["rows"]
    assert [row["studies"] for row in rows] == [40] * 3
    assert rows[0]["measured"] == "top-1, 100 images, 90%: interval of a cell covers"
    assert rows[0]["value"] in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_intervals_cover_and_tests_reject_what_they_should(name):
    experiment = replace(BY_NAME[name], studies=max(20, BY_NAME[name].studies // 20))
    for share in run(experiment):
        low, high = share.bounds
        # As many as one run in a thousand would miss a bound by chance.
        least, most = (stats.binom.ppf(tail, share.studies, bound)
                       for tail, bound in ((0.001, low), (0.999, high)))  # fmt: skip
        assert least <= share.happened <= most, share
