"""The benchmark's own arithmetic, and that it runs."""

import json

import pytest
import torch

from experiments.benchmarks import speed


def test_host_and_method_take_turns():
    order = []
    forwards = (lambda x: order.append("host"), lambda x: order.append("method"))
    hosts, reduced = speed.take_turns(
        forwards, torch.zeros(1), repeats=2, clock=iter(range(99)).__next__
    )
    assert order == ["host", "method", "host", "method", "host", "method", "host"]
    assert (hosts, reduced) == ([1, 1, 1], [1, 1])


def test_a_short_run(tmp_path, capsys):
    options = "--host deit_tiny_patch16_224 --batch-size 2 --methods deit topk --repeats 1"
    speed.main([*options.split(), "--keep-rates", "0.5", "--threads", "1", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "speed.json").read_text())
    plain, topk = written["rows"]
    assert (plain["work"], plain["keep_rate"]) == (1, 1)
    assert topk["tokens"] == [98, 49, 24]
    assert 0.4 < topk["work"] < 0.6
    for row in (plain, topk):
        assert row["efficiency"] == pytest.approx(row["speed_up"] * row["work"])
        assert 0.8 * row["host_memory_mib"] < row["memory_mib"] < 1.01 * row["host_memory_mib"]
    assert (tmp_path / "speed.md").read_text().count("\n") == 4
    assert "plotly" in (tmp_path / "speed.html").read_text()
    assert "| topk | 0.5 |" in capsys.readouterr().out
