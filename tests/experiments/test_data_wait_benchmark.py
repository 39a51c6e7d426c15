"""The benchmark of the wait for images runs, and tells cache from files."""

import json

from experiments.benchmarks import data_wait


def test_a_short_run(tmp_path, capsys):
    options = "--host vit_tiny_patch16_224 --images 4 --size 60 44 --cache 36 --image-size 32"
    data_wait.main([*options.split(), "--batch-size", "4", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "data_wait.json").read_text())["rows"]
    assert [row["measured"] for row in rows] == ["data wait, files", "data wait, cache"]
    assert [row["target"] for row in rows] == ["at most 1", "at most 0.05"]
    assert all(0 < row["value"] < 1 for row in rows)
    assert "| data wait, cache |" in capsys.readouterr().out
