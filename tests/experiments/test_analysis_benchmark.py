"""The benchmark of the analysis runs, its loops find what the metrics find, and it counts reads."""

import json
from argparse import Namespace

import pytest

from experiments.benchmarks import analysis, analysis_parts


def test_metrics_equal_the_loops_that_they_are_measured_against():
    rows = list(analysis_parts.speed(Namespace(images=30)))  # It compares what both find.
    assert [row["target"] for row in rows] == ["at least 20", "at least 100", "at least 30"]
    assert all(row["value"].endswith(" times") for row in rows)


def test_patterns_take_little_beside_json():
    kept, groups, _ = analysis_parts.size(Namespace(images=300, features=8))
    for row in (kept, groups):
        assert int(row["value"].split()[0]) >= 15  # The fewer the images, the less.


@pytest.mark.slow
def test_memory_and_reads_on_ray(tmp_path, capsys):
    few = [
        "--parts",
        "memory",
        "reads",
        "--many-images",
        "300",
        "--features",
        "8",
        "--cells",
        "2",
        "3",
    ]
    analysis.main([*few, "--out", str(tmp_path)])
    *peaks, two, three = json.loads((tmp_path / "analysis.json").read_text())["rows"]
    assert all(0.05 < float(row["value"]) < 2 for row in peaks)
    assert (two["value"], three["value"]) == ("1.00", "1.00")
    assert three["run"].endswith(" MB for 3 pairs")
    assert three["run"] in capsys.readouterr().out
