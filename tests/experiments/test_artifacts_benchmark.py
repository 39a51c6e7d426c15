"""The benchmark of artifacts tells what is stored, and what coders reach."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks import artifacts
from orchestrator.store.store import Store


def test_a_cell_s_artifacts(tmp_path, capsys):
    cell = Store(tmp_path / "study").cell("made-up")
    patterns = {"image": np.arange(9), "depth": np.array(12), "kept_3": np.arange(36).reshape(9, 4)}
    features = {"cls_3": np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)}
    predictions = pd.DataFrame({"image": range(9), "loss": 0.5})
    arrays = {"patterns": patterns, "features": features}
    cell.evaluations()[None].write({}, predictions, arrays)
    artifacts.main([str(cell.path), "--out", str(tmp_path)])
    about, rows = json.loads((tmp_path / "artifacts.json").read_text()).values()
    assert about["cells"] == [cell.id]
    stored = {row["facts"]: row for row in rows if row["form"] == "stored"}
    assert len(stored) == 4
    values = {name: row["bytes"] / row["bytes_a_value"] for name, row in stored.items()}
    expected = {"patterns.npz": 45, "features.npz": 45, "predictions.parquet": 18, "all three": 108}
    assert values == pytest.approx(expected)
    for name in ("patterns.npz", "features.npz", "predictions.parquet"):
        assert stored[name]["bytes"] == (cell.path / name).stat().st_size
    assert stored["all three"]["bytes"] == sum(row["bytes"] for row in stored.values()) / 2
    forms = [row["form"] for row in rows if row["facts"] == "features.npz"]
    assert forms == ["stored", *artifacts.coders(np.ones(3, dtype=np.float32))]
    assert "| features.npz | stored |" in capsys.readouterr().out


def test_facts_of_images_as_json():
    columns = {"kept_3": np.array([[1, 2], [3, 4]], dtype=np.uint8), "loss": np.array([0.5, 2.0])}
    facts = {"0": {"kept_3": [1, 2], "loss": 0.5}, "1": {"kept_3": [3, 4], "loss": 2.0}}
    assert artifacts.json_bytes(columns) == len(json.dumps(facts, indent=4))


def test_coders_know_noise_from_repetition():
    random = np.random.default_rng(0).integers(0, 256, 40_000, dtype=np.uint8).view(np.float32)
    coded = artifacts.coders(random)
    assert coded["entropy of each byte"] == pytest.approx(4 * 10_000, rel=0.01)
    assert min(coded.values()) > 0.99 * 4 * 10_000
    same = artifacts.coders(np.full(10_000, 1.5, dtype=np.float32))
    assert same["entropy of each byte"] == 0
    assert max(same.values()) < 0.02 * 4 * 10_000
