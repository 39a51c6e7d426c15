"""The comparison of recipes on few images runs, and writes what it found."""

import json

from experiments.benchmarks import few_images


def test_a_short_run(tmp_path, capsys):
    options = "--images 64 --methods topk --recipes probe --epochs 1 --seeds 0 1"
    few_images.main([*options.split(), "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "few_images.json").read_text())["rows"]
    assert (row["method"], row["recipe"]) == ("topk", "probe")
    assert 0 <= row["lowest"] <= row["top1"] <= row["highest"] <= 100
    assert "| topk | probe |" in capsys.readouterr().out
