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


def test_turns_are_the_rounds_but_the_first():
    there, here = Scripted(90, 4, 6, 8), Scripted(1, 2, 2, 2)
    assert two_checkouts.turns(there, here, "topk", 3) == [(4, 2), (6, 2), (8, 2)]


def test_the_ratio_is_the_median_of_the_pairs():
    """A lucky pair of many rounds weighs no more than another one."""
    lucky = [(9.0, 1.0)] * 50
    row = two_checkouts.RatioRow.of("topk", [[(2.0, 2.0)], lucky, [(4.0, 2.0), (8.0, 2.0)]])
    assert (row.low, row.ratio, row.high) == (2, 3, 6)
    assert (row.there_ms, row.here_ms, row.least) == (9000, 1000, 2)


@pytest.mark.slow
def test_a_short_run(tmp_path, capsys):
    options = "--host deit_tiny_patch16_224 --batch-size 1 --threads 1 --repeats 2 --clock cpu"
    chosen = ["--pairs", "2", "--methods", "deit", "topk", "--out", str(tmp_path)]
    two_checkouts.main([str(ROOT), *options.split(), *chosen])
    rows = json.loads((tmp_path / "two_checkouts.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["deit", "topk"]
    assert all(0.2 < row["ratio"] < 5 for row in rows)
    assert "| topk |" in capsys.readouterr().out
