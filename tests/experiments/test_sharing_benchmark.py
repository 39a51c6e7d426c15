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


def test_a_process_that_dies_is_told(monkeypatch):
    load = sharing.Load("no_such_host", "deit", 2, 32, 1, "cpu", 1)
    with pytest.raises(RuntimeError, match="ended with status 1"):
        sharing.speed(load, 1)


def test_mps_is_asked_for_only_where_it_is(monkeypatch, capsys):
    monkeypatch.setattr(sharing.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        sharing.parse(["--mps"])
    assert "--mps needs nvidia-cuda-mps-control" in capsys.readouterr().err
