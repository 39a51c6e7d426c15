"""Runs of a W&B project become cells that are evaluated, compared and shown with all others."""

import shlex
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load

from orchestrator.commands import wandb_client
from orchestrator.results.table_store import read_tables
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState


def cells_of(study):
    store = Store(study)
    return {cell.cell().method: cell for cell in map(store.cell, store.cell_ids())}


def test_finished_runs_become_trained_cells(add_run, import_project, store_folder):
    add_run("brave-bird-1", accuracy=88.5, seed=3)
    add_run("deft-deer-2", "deit_tiny_patch4_32_local", rates=())
    status, lines, _ = import_project(store_folder / "results" / "published")
    assert status == 0
    cells = cells_of(store_folder / "results" / "published")
    topk, deit = cells["topk"], cells["deit"]
    assert [cell.state() for cell in (topk, deit)] == [CellState.TRAINED] * 2
    cell = topk.cell()
    assert (cell.keep_rate, cell.seed, cell.reduction_loc) == (0.5, 3, (3, 6, 9))
    assert (cell.capacity, cell.host) == ("tiny", "digits_tiny_patch4_32")
    assert cell.imported == "tester/Token Reduction Training/id0"
    assert (deit.cell().keep_rate, deit.cell().reduction_loc) == (1.0, (3, 6, 9))
    assert topk.result()["accuracy"] == 88.5
    checkpoint = torch.load("out/brave-bird-1/best_checkpoint.pth", weights_only=False)
    weights = load(topk.load_best())
    for name, x in checkpoint["model_ema"].items():
        assert torch.equal(weights[name], x)
    assert lines[-2] == f"2 cells in {store_folder}/results/published, 2 of them with weights"


def test_a_distilled_model_needs_its_host(add_run, import_project, tmp_path):
    distilled = "deit_{capacity}_distilled_patch16_224"
    add_run("wise-wolf", "topk_tiny_distilled_patch16_224", rates=(0.7,), host=distilled)
    study = tmp_path / "published"
    _, lines, _ = import_project(study)
    (told,) = [line for line in lines if line.startswith("without weights: wise-wolf: ")]
    assert "; it is of a host with a distillation token (timm's *_distilled_*) (out/" in told
    _, lines, _ = import_project(study, host=distilled)
    assert lines[-2] == f"1 cells in {study}, 1 of them with weights"
    checkpoint = torch.load("out/wise-wolf/best_checkpoint.pth", weights_only=False)["model_ema"]
    (weights,) = [
        load(cell.load_best())
        for cell in map(Store(study).cell, Store(study).cell_ids())
        if cell.state() is CellState.TRAINED
    ]
    assert torch.equal(weights["head_dist.weight"], checkpoint["head_dist.weight"])


def test_an_imported_cell_is_never_one_that_is_trained_here(add_run, import_project, tmp_path):
    add_run("brave-bird-1")
    import_project(tmp_path / "published")
    imported = cells_of(tmp_path / "published")["topk"].cell()
    trained = imported.model_copy(update={"imported": None})
    assert trained.id != imported.id
    assert trained.series != imported.series
    other_seed = imported.model_copy(update={"seed": 7, "imported": f"{imported.imported}0"})
    assert other_seed.series == imported.series


def test_runs_that_do_not_count_are_skipped_and_counted(add_run, import_project, tmp_path):
    add_run("good")
    add_run("still", exit_codes=(), saved=False, rates=(0.7,))
    add_run("secret", tags=["hidden"], saved=False)
    add_run("worse", tags=["Not Best", "x"], saved=False)
    add_run("broken", summary={"loss": 1.0}, saved=False)
    add_run("lower", accuracy=10.0, saved=False)
    add_run("alien", "resnet50", saved=False)
    add_run("staged", rates=(0.9, 0.5, 0.3), saved=False)
    status, lines, _ = import_project(tmp_path / "published")
    assert status == 0
    assert lines[0] == (
        "not imported: alien: model is 'resnet50', but must be METHOD_CAPACITY_patch16_224, as the "
        "published study names its models"
    )
    assert lines[1] == (
        "not imported: staged: keep_rate is [0.9, 0.5, 0.3], but must be one number, as a cell "
        "has it"
    )
    assert lines[2] == (
        "tester/Token Reduction Training: 8 runs, 1 to import, 7 skipped (1 running, 1 hidden, "
        "1 Not Best, 1 without max_accuracy, 1 not the best of their setting, 2 no cell)"
    )
    (cell,) = cells_of(tmp_path / "published").values()
    assert cell.imported()["name"] == "good"


def test_a_missing_checkpoint_leaves_what_is_recorded(add_run, import_project, tmp_path, call):
    add_run("gone", accuracy=77.25, saved=False)
    status, lines, _ = import_project(tmp_path / "published")
    assert status == 0
    assert (
        "without weights: gone: its checkpoint is missing (out/gone/best_checkpoint.pth); "
        "max_accuracy is recorded"
    ) in lines
    (cell,) = cells_of(tmp_path / "published").values()
    assert cell.state() is CellState.RECORDED
    assert not cell.is_trained()
    assert "top1 77.25 % in W&B" in "\n".join(call("cells", tmp_path / "published")[1])
    assert "1 recorded" in "\n".join(call("status", tmp_path / "published")[1])


def test_checkpoints_may_lie_elsewhere_and_come_later(add_run, import_project, tmp_path):
    add_run("brave-bird-1")
    (tmp_path / "out").rename(tmp_path / "moved")
    study = tmp_path / "published"
    import_project(study)
    (cell,) = cells_of(study).values()
    assert cell.state() is CellState.RECORDED
    (tmp_path / "disk").mkdir()
    (tmp_path / "moved").rename(tmp_path / "disk" / "out")
    for folder in ("disk", "disk/out"):  # The working folder, or that of the runs' folders.
        import_project(study, "--checkpoints", tmp_path / folder)
        assert cell.state() is CellState.TRAINED
        assert cell.imported()["missing"] is None
        cell.discard_training()


def test_hostile_and_foreign_checkpoints_are_not_used(add_run, import_project, tmp_path):
    add_run("evil", rates=(0.25,))
    add_run("other", rates=(0.7,))
    add_run("away", rates=(0.9,), saved=False, output_dir="../../elsewhere")
    torch.save({"model": torch.nn.Linear(1, 1)}, "out/evil/best_checkpoint.pth")
    torch.save({"model": {"head.weight": torch.ones(3, 3)}}, "out/other/best_checkpoint.pth")
    _, lines, _ = import_project(tmp_path / "published", "--checkpoints", tmp_path)
    told = [line for line in lines if line.startswith("without weights: ")]
    assert len(told) == 3
    assert "evil: its checkpoint cannot be used:" in told[0]
    assert "other: its checkpoint cannot be used:" in told[1]
    assert "does not fit the model" in told[1]
    assert "away: its checkpoint is missing" in told[2]
    assert {c.state() for c in cells_of(tmp_path / "published").values()} == {CellState.RECORDED}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "dyvit_small_patch16_224"}, ("dynamicvit", {})),
        ({"model": "kmedoids_base_patch16_224", "cluster_iters": 5, "equal_weight": True},
         ("kmedoids", {"iters": 5, "equal_weight": True})),
        ({"model": "dpcknn_tiny_patch16_224", "k_neighbors": 5, "equal_weight": False},
         ("dpcknn", {})),
        ({"model": "sinkhorn_tiny_patch16_224", "sinkhorn_eps": 0.5}, ("sinkhorn", {"eps": 0.5})),
        ({"model": "heuristic_tiny_patch16_224", "heuristic_pattern": "l2", "not_contiguous": True},
         ("l2", {})),
        ({"model": "heuristic_tiny_patch16_224", "heuristic_pattern": "linf", "min_radius": 2.0},
         ("linf", {"schedule": "linear", "min_radius": 2.0})),
    ],
)  # fmt: skip
def test_published_names_and_arguments_are_ours(change, expected):
    from orchestrator.commands.published_runs import PublishedRun, published_cell

    config = {"dataset": "imagenet", "keep_rate": [0.7], "reduction_loc": [3, 6, 9]} | change
    run = PublishedRun("me/p/1", "name", "finished", (), config, {"max_accuracy": 70.0})
    cell = published_cell(run, "deit_{capacity}_patch16_224.fb_in1k", (3, 6, 9))
    assert (cell.method, cell.options) == expected
    assert cell.host.startswith(f"deit_{change['model'].split('_')[1]}_patch16")


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["no-slash", "r/s"], {}, "the W&B project is 'no-slash', but must be ENTITY/PROJECT"),
        (["tester/none", "r/s"], {}, "W&B: Could not find project none"),
        (["a/b", "r/.hidden"], {}, "the study is 'r/.hidden', but must be STORAGE/STUDY"),
        (["a/b", "r/s"], {"WANDB_API_KEY": "a" * 40}, "W&B: Failed to authenticate with"),
        (["a/b", "r/s"], {"WANDB_API_KEY": ""}, "W&B has no key: set WANDB_API_KEY"),
    ],
)
def test_what_is_wrong_is_one_line(server, call, monkeypatch, tmp_path, arguments, variables,
                                   message):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, _, error = call("import-wandb", *arguments)
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: {message}")
    assert not (tmp_path / "r").exists()


def test_a_server_that_cannot_be_reached_is_one_line(server, call, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    status, _, error = call("import-wandb", "a/b", "r/s")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("error: W&B: no answer from http://127.0.0.1:9: ")


def test_a_server_that_says_nothing_is_one_line(server, call, monkeypatch):
    monkeypatch.setattr(wandb_client, "ANSWER_SECONDS", 0.1)
    server.silent.set()
    status, _, error = call("import-wandb", "a/b", "r/s")
    server.silent.clear()
    assert (status, error) == (2, f"error: W&B: no answer from {server.url}: timed out\n")


def test_importing_joins_a_study_that_is_there(add_run, import_project, tmp_path, store):
    before = store.read_study()
    add_run("brave-bird-1")
    assert import_project(store.path)[0] == 0
    after = store.read_study()
    assert after["cells"][: len(before["cells"])] == before["cells"]
    assert len(after["cells"]) == len(before["cells"]) + 1
    assert {**after, "cells": None} == {**before, "cells": None}


@pytest.mark.slow
def test_imported_cells_are_evaluated_compared_and_shown(add_run, import_project, s3_folder):
    study = s3_folder / "published"
    add_run("topk-half", accuracy=91.0)
    add_run("tome-half", "tome_tiny_patch4_32", accuracy=92.0)
    add_run("plain", "deit_tiny_patch4_32_local", rates=(), accuracy=97.0)
    add_run("gone", "evit_tiny_patch4_32", accuracy=93.0, saved=False)
    _, lines, _ = import_project(study)
    _, words, command = lines[-1].partition(": tokensweep ")
    assert words
    lines = launched(command)
    assert "published: 3 of 3 cells done, 0 failed" in lines
    cells = cells_of(study)
    assert cells["evit"].state() is CellState.RECORDED

    tables = read_tables(Store(study))
    results = tables["results"].set_index("method")
    assert results["imported"].notna().all()
    assert results["imported_accuracy"].to_dict() == {
        "topk": 91.0, "tome": 92.0, "deit": 97.0, "evit": 93.0,
    }  # fmt: skip
    assert results.loc["evit", "accuracy"] == 93.0
    assert "its checkpoint is missing" in results.loc["evit", "note"]
    assert (results.loc[["topk", "tome", "deit"], "accuracy"] > 80).all()
    assert results.loc["deit", "images"] == 360
    features = tables["features"]
    assert {*zip(features["method_a"], features["method_b"], strict=True)} >= {("topk", "tome")}
    assert tables["seeds"]["imported"].all()
    page = Store(study).report.read_text()
    assert "imported from tester/Token Reduction Training/" in page
    # And again, there is nothing left to do.
    assert launched(command)[0] == "published: 3 of 3 cells done, 0 failed"


def launched(command):
    """Type a command; return the lines it prints. It must succeed.

    Not in this process: Ray would remember the token of this test's home, which no other has.
    """
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator", *shlex.split(command)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()
