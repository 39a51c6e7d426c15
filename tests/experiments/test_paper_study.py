"""A miniature of the shipped paper study, end to end: its own file, real formats, tiny hosts.

Everything comes from `paper.yaml` but what makes it small: one capacity and keep rate, images of
64 pixels, a single epoch of a few steps. The datasets are copies in the published formats, the
hosts random ones that lie in a folder as the hub keeps them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
from published_datasets import WRITERS
from timm.models import save_for_hf

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLASSES = 4
HOST = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "num_heads": 3}
SMALL_RECIPE = {
    "image_size": 64,
    "epochs": 1,
    "warmup_epochs": 0,
    "batch_size": 8,
    "loader_workers": 0,
}
SETTINGS = (
    "grids.0.capacity=[tiny]",
    "grids.1.capacity=[tiny]",
    "grids.1.keep_rate=[0.5]",
    f"recipes.paper.capacity.tiny={SMALL_RECIPE}",
    "resources.tiny={cpu: 1, gpu: 0.25}",
    "measure={batch_sizes: [1, 8], rounds: 7, seconds: 0.01}",
)
LARGEST_CELL = 1_000_000
"""Bytes of a finished cell's folder; its host has 100,000 parameters of 4 bytes."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Run the study as a user does; return its store, exit status and what it printed."""
    folder = tmp_path_factory.mktemp("paper")
    for name, write in WRITERS.items():
        write(folder / "data" / name, train=24, val=16)
    vit = timm.create_model("deit_tiny_patch16_224", num_classes=CLASSES, **HOST)
    vit.pretrained_cfg["num_classes"] = CLASSES
    host = folder / "weights" / "deit_tiny_patch16_224.fb_in1k"
    save_for_hf(vit, host, model_args=HOST, safe_serialization=True)

    command = [sys.executable, ROOT / "experiments" / "full_grid.py", "--study", "paper"]
    for option in ("data", "weights", "storage"):
        command += [f"--{option}", folder / option]
    for setting in SETTINGS:
        command += ["--set", setting]
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    return Store(folder / "storage" / "paper"), ended


def cells_of(store):
    return [store.cell(cell_id) for cell_id in store.cell_ids()]


def times_of(stored):
    return [entry["time"] for entry in stored.log() if "step" in entry]


def test_every_cell_of_every_dataset_is_done(study):
    store, ended = study
    assert ended.returncode == 0, ended.stdout
    assert "paper: 56 of 56 cells done, 0 failed" in ended.stdout
    assert {cell.state() for cell in cells_of(store)} == {CellState.DONE}


def test_the_tables_hold_all_datasets_and_methods(study):
    store, _ = study
    results = pd.read_parquet(store.tables / "results.parquet")
    assert len(results) == 56
    metrics = results.groupby("dataset")["metric"].unique().map(list).to_dict()
    single, several = ["top1"], ["map"]
    assert metrics == {"imagenet": single, "nabirds": single, "coco": several, "nuswide": several}
    assert results.groupby("dataset")["method"].nunique().to_dict() == dict.fromkeys(metrics, 14)
    assert (results["images"] == 16).all()
    assert (results["epoch"] == 1).all()
    assert results["accuracy"].between(0, 100).all()
    topk = results[results["method"] == "topk"]
    assert [list(tokens) for tokens in topk["tokens"]] == [[32, 16, 8]] * 4
    for name in ("pruning", "merging", "features", "heatmaps"):
        compared = pd.read_parquet(store.tables / f"{name}.parquet")
        assert set(compared["dataset"]) == set(metrics)


def test_dynamicvit_is_trained_after_its_teacher(study):
    store, _ = study
    cells = {(c.cell().dataset, c.cell().method): c for c in cells_of(store)}
    for dataset in WRITERS:
        student, baseline = cells[dataset, "dynamicvit"], cells[dataset, "deit"]
        if dataset == "imagenet":
            assert student.cell().prerequisite is None
            assert student.cell().teacher == "deit_tiny_patch16_224.fb_in1k"
        else:
            assert student.cell().prerequisite == baseline.id
            assert times_of(baseline)[-1] < times_of(student)[0]


def test_the_report_shows_all_datasets(study):
    store, _ = study
    page = store.report.read_text()
    assert page.rstrip().endswith("</html>")
    assert all(dataset in page for dataset in WRITERS)


def test_a_finished_cell_takes_little_more_than_its_weights(study):
    store, _ = study
    sizes = {
        cell.id: sum(path.stat().st_size for path in cell.path.rglob("*") if path.is_file())
        for cell in cells_of(store)
    }
    assert max(sizes.values()) < LARGEST_CELL, sizes
