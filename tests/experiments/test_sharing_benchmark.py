"""The benchmark of cells that share a device."""

import json

import pytest

from experiments.benchmarks import sharing

OPTIONS = "--image-size 32 --batch-size 2 --steps 1 --repeats 1 --threads 2"


@pytest.mark.slow
def test_a_short_run(tmp_path, capsys):
    sharing.main([*OPTIONS.split(), "--cells", "2", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "sharing.json").read_text())["rows"]
    assert row["measured"] == "2 cells at once over one after the other"
    together, alone = (float(fact.split()[0]) for fact in row["details"].split(", "))
    assert row["value"] == pytest.approx(together / alone, rel=0.1)
    assert "| 2 cells at once" in capsys.readouterr().out


def test_one_cell_takes_turns_with_each_number_of_them(tmp_path, monkeypatch, capsys):
    """Its turn counts for all; ratios are of turns that follow each other."""
    turns = [(10.0, 11.0, 8.0), (20.0, 24.0, 30.0), (10.0, 13.0, 12.0)]
    speeds = iter([pair for turn in turns for pair in zip((1, 2, 4), turn, strict=True)])
    threads = []

    def speed(load, processes):
        expected, found = next(speeds)
        assert processes == expected
        threads.append(load.threads)
        return found

    monkeypatch.setattr(sharing, "speed", speed)
    sharing.main(["--cells", "2", "4", "--repeats", "3", "--threads", "2", "--out", str(tmp_path)])
    two, four = json.loads((tmp_path / "sharing.json").read_text())["rows"]
    assert two["value"] == pytest.approx(1.2)
    assert four["value"] == pytest.approx(1.2)
    assert four["details"] == "12.0 images/s together, 10.0 alone"
    assert threads == [2, 1, 1] * 3
    assert "turn 3 of 3: 4 at once, 12.0 images/s" in capsys.readouterr().err


def test_a_process_that_dies_is_told(monkeypatch):
    load = sharing.Load("no_such_host", "deit", 2, 32, 1, "cpu", 1)
    with pytest.raises(RuntimeError, match="ended with status 1"):
        sharing.speed(load, 1)


def test_mps_is_asked_for_only_where_it_is(monkeypatch, capsys):
    monkeypatch.setattr(sharing.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        sharing.parse(["--mps"])
    assert "--mps needs nvidia-cuda-mps-control" in capsys.readouterr().err
