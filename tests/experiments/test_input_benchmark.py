"""The benchmark of the input: its arithmetic, and that it runs."""

import json

import pytest

from experiments.benchmarks import input as benchmark


def test_time_is_that_from_the_first_batch_to_the_last():
    moments = iter([10.0, 14.0, 34.0])
    assert benchmark.timed(["batch"] * 6, 8, lambda: next(moments)) == (4.0, 20.0 / 40)


def test_a_short_run(tmp_path, capsys):
    options = "--images 12 --size 60 44 --cache 36 --image-size 32 --batch-size 4 --repeats 2"
    benchmark.main([*options.split(), "--processes", "1", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "input.json").read_text())
    rows = record["rows"]
    assert [(row["augmentation"], row["processes"], row["images"]) for row in rows] == [
        (augmentation, processes, images)
        for augmentation in ("none", "single label", "several labels")
        for processes in (0, 1)
        for images in ("files", "cache")
    ]
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["first_batch"] > 0
        assert (row["speed_up"] == pytest.approx(1)) is (row["images"] == "files")
    assert record["about"]["bytes"] > 500
    assert (tmp_path / "input.md").read_text().count("\n") == 2 + len(rows)
    assert "| single label | cache | 1 |" in capsys.readouterr().out
