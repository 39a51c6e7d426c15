"""The benchmark of DynamicViT's attention runs, and sees what maps cost."""

import json

from experiments.benchmarks import masked_attention as attention


def test_a_short_run(tmp_path, capsys):
    options = "--images 4 2 --heads 2 1 --tokens 50 --host vit_tiny_patch16_224 --repeats 1"
    attention.main([*options.split(), "--threads", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "masked_attention.json").read_text())["rows"]
    assert [row["measured"].split(",")[0] for row in rows] == [
        "time of 4 images",
        "memory of 4 images",
        "time of 2 images",
        "memory of 2 images",
        "memory of vit_tiny_patch16_224",
    ]
    assert all(row["value"] > 0 for row in rows)
    assert 0.5 < rows[-1]["value"] < 0.95  # A map a block is a large part of a small host.
    assert "| time of 4 images, 2 heads, over that with maps |" in capsys.readouterr().out
