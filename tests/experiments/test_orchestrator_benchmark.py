"""The benchmark of the orchestrator: its own arithmetic, and that it runs and reports facts."""

import json
import re

import pytest

from experiments.benchmarks import launches, orchestrator


def test_slots_count_while_cells_are_left_to_begin():
    # Two slots are both in use from 1 on; the last cell begins at 10, one idles from 4 to 6.
    spans = [(0, 4), (1, 7), (6, 10), (7, 10), (10, 99)]
    assert launches.busy_share(spans, 2) == pytest.approx((2 * 9 - 2) / (2 * 9))


def rows_of(tmp_path, *arguments):
    orchestrator.main([*arguments, "--repeats", "1", "--out", str(tmp_path)])
    return json.loads((tmp_path / "orchestrator.json").read_text())["rows"]


def test_a_finished_study_and_a_cells_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(orchestrator, "MEGABYTES", {"a model": 0.1})
    again, written = rows_of(tmp_path, "--parts", "restart", "writes", "--cells", "2")
    assert "idle: 2 of 2 cells done, 0 failed" in again["details"]
    assert written["measured"] == "writes of a one-minute cell of a model over its time"
    assert written["details"].endswith(" s, weights of 0.1 MB")
    assert 0 < written["value"] < 1
    assert (tmp_path / "orchestrator.md").read_text().count("\n") == 2 + 2
    assert "| at most 1.5 |" in capsys.readouterr().out


@pytest.mark.slow
def test_cells_of_no_work_on_ray(tmp_path, monkeypatch):
    monkeypatch.setattr(orchestrator, "BARE", orchestrator.BARE[::3])  # The first and the last.
    arguments = "--parts grid slots --cells 5 --slots 2 --waiting-cells 4 --seconds 0.1 0.3"
    *ratios, memory, cpus, gpus = rows_of(tmp_path, *arguments.split())
    assert [row["target"] for row in ratios] == ["at most 1.10", ""]
    for row in ratios:
        assert row["details"].startswith("5 trained; ")
        assert row["value"] > 0
    assert "plain grid: " in memory["details"]
    for row in (cpus, gpus):
        # One does where the other takes longer to start than all cells.
        assert re.fullmatch("4 cells of 0.1 to 0.3 s in [12] processes", row["details"])
        assert 0 < row["value"] <= 1
