"""The benchmark of shared input: its arithmetic, and that it runs."""

import json

import pytest

from experiments.benchmarks import shared_input as benchmark
from experiments.benchmarks.shared_input import Run


def test_each_round_is_compared_with_its_own_cell_alone():
    kinds = [(4, False), (4, True)]
    rounds = [
        (Run(10, 2.0, 8), dict(zip(kinds, [Run(20, 8.0, 32), Run(40, 2.4, 8)], strict=True))),
        (Run(10, 1.0, 8), dict(zip(kinds, [Run(10, 4.0, 32), Run(40, 1.4, 12)], strict=True))),
        (Run(10, 4.0, 8), dict(zip(kinds, [Run(40, 16.0, 32), Run(40, 4.0, 8)], strict=True))),
    ]
    row = benchmark.summary((4, True), rounds)
    assert (row.images_per_second, row.speed_up, row.decodes) == (40, 2, 1)
    assert row.work == pytest.approx(1.2)


def test_cells_that_share_decode_an_image_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainables.data.shared.PATIENCE_SECONDS", 1e6)
    options = "--images 12 --size 60 44 --image-size 32 --batch-size 4 --repeats 1 --cells 1 3"
    benchmark.main([*options.split(), "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "shared_input.json").read_text())["rows"]
    found = [(row["cells"], row["shared"], row["decodes"]) for row in rows]
    assert found == [(1, False, 1), (1, True, 1), (3, False, 3), (3, True, 1)]
    assert all(row["work"] > 0 and row["images_per_second"] > 0 for row in rows)
    assert "| 3 | True |" in capsys.readouterr().out
