"""A checkout against itself: both do the same."""

import json
from pathlib import Path

import pytest

from experiments.benchmarks import two_checkouts

ROOT = Path(__file__).parents[2]


class Scripted:
    """Takes the seconds it is given."""

    def __init__(self, *seconds):
        self.left = list(seconds)

    def seconds(self, method):
        return self.left.pop(0)


def test_the_ratio_is_that_of_the_rounds_but_the_first():
    row = two_checkouts.compare(Scripted(90, 4, 6, 8), Scripted(1, 2, 2, 2), "topk", 3)
    assert (row.low, row.ratio, row.high) == (2.5, 3, 3.5)
    assert (row.there_ms, row.here_ms, row.least) == (6000, 2000, 2)


@pytest.mark.slow
def test_a_short_run(tmp_path, capsys):
    options = "--host deit_tiny_patch16_224 --batch-size 1 --threads 1 --repeats 2 --clock cpu"
    chosen = ["--methods", "deit", "topk", "--out", str(tmp_path)]
    two_checkouts.main([str(ROOT), *options.split(), *chosen])
    rows = json.loads((tmp_path / "two_checkouts.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["deit", "topk"]
    assert all(0.2 < row["ratio"] < 5 for row in rows)
    assert "| topk |" in capsys.readouterr().out
