"""Tables and figures of a study as a run of a W&B project, through W&B's own client."""

import io
import json

import pandas as pd
import pytest
from PIL import Image

from orchestrator.results.table_store import read_tables


@pytest.fixture
def drawn(compared):
    """The study with a figure and a page, too."""
    picture = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(picture, "PNG")
    compared.figures.mkdir()
    (compared.figures / "accuracy.png").write_bytes(picture.getvalue())
    compared.report.parent.mkdir()
    compared.report.write_text("<html></html>")
    return compared


def test_tables_figures_and_files_are_one_run(server, drawn, call):
    status, lines, error = call("export-wandb", drawn.path, "tester/analyses")
    assert (status, error) == (0, "")
    assert lines[-1].startswith("made_up: 2 tables and 1 figures in http://127.0.0.1")
    (run,) = server.runs.values()
    assert (run.project, run.group, run.job_type) == ("analyses", "made_up", "analysis")
    assert (run.display_name, run.state) == ("made_up: analysis", "finished")
    assert run.config["git_commit"]["value"] == "abc"
    assert {key for key in run.summary if not key.startswith("_")} == {
        "tables/results", "tables/seeds", "figures/accuracy",
    }  # fmt: skip

    (name,) = (name for name in server.uploads if "media/table/tables/results" in name)
    shown = json.loads(server.uploads[name])
    results = read_tables(drawn)["results"]
    assert shown["columns"] == list(results.columns)
    row = dict(zip(shown["columns"], shown["data"][0], strict=True))
    assert (row["method"], row["accuracy"]) == ("topk", results["accuracy"][0])
    assert (row["map"], row["stages"]) == (None, "[3, 6]")
    assert [n for n in server.uploads if "media/images/figures/accuracy" in n]

    (artifact,) = (artifact for artifact in server.artifacts if artifact.type == "analysis")
    assert (artifact.name, artifact.committed) == ("made_up-analysis", True)
    assert set(artifact.files) == {
        "tables/results.csv", "tables/results.tex", "tables/seeds.csv", "tables/seeds.tex",
        "tables/accuracy-digits-tiny.tex", "figures/accuracy.png", "report/index.html",
    }  # fmt: skip
    (csv,) = (data for name, data in server.uploads.items() if name.endswith("tables/results.csv"))
    assert pd.read_csv(io.BytesIO(csv))["method"].tolist() == ["topk"]


def test_offline_they_wait_for_wandb_sync(server, drawn, call, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    status, lines, error = call("export-wandb", drawn.path, "tester/analyses")
    assert (status, error) == (0, "")
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert lines[-1].endswith(f"(send it with: wandb sync {folder})")
    assert next(folder.glob("run-*.wandb")).stat().st_size > 0
    assert server.operations == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WANDB_MODE": "disabled"}, "WANDB_MODE is 'disabled', but must be one of: "),
        ({"WANDB_API_KEY": ""}, "W&B has no key: set WANDB_API_KEY, or type: wandb login"),
        ({"WANDB_API_KEY": "a" * 40}, "W&B: Failed to authenticate with http"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "W&B: no answer from http://127.0.0.1:9: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(server, drawn, call, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, _, error = call("export-wandb", drawn.path, "tester/analyses")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: {message}")
    assert "aaaa" not in error
    assert server.runs == {}


def test_a_study_without_tables_is_one_line(server, store, call):
    status, _, error = call("export-wandb", store.path, "tester/analyses")
    assert (status, error.count("\n")) == (2, 1)
    assert "has no tables yet" in error
