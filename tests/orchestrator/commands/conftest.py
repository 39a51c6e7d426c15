"""A W&B project with runs as the published study's script leaves them, and their checkpoints."""

import argparse
import os

import pytest
import torch
from made_tables import compared_study
from wandb_server import ENTITY, WandbServer

from orchestrator.cli import main
from trainables.cell.cell import Cell
from trainables.models.host import build_model
from trainables.recipe import Recipe

PROJECT = "Token Reduction Training"
HOST = "digits_{capacity}_patch4_32"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that W&B's client in this process speaks to."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with WandbServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """A study that has tables, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return compared_study(tmp_path / "results")


@pytest.fixture
def add_run(server, tmp_path, monkeypatch):
    """Add a run to the project, and its checkpoint to the working folder, unless told not to."""
    monkeypatch.chdir(tmp_path)

    def add(name, model="topk_tiny_patch4_32", rates=(0.5,), accuracy=90.0, **others):
        saved, summary = others.pop("saved", True), others.pop("summary", None)
        host = others.pop("host", HOST)
        run = {key: others.pop(key) for key in ("tags", "exit_codes") if key in others}
        config = {
            "model": model, "dataset": "digits", "input_size": 32, "epochs": 30, "seed": 0,
            "keep_rate": list(rates), "reduction_loc": [3, 6, 9] if rates else [],
            "output_dir": "./out", "lr": 0.001,
        } | others  # fmt: skip
        reached = {"max_accuracy": accuracy} if summary is None else summary
        server.add_run(PROJECT, name, config, reached, **run)
        if saved:
            save_checkpoint(tmp_path / "out" / name / "best_checkpoint.pth", config, host)

    return add


def save_checkpoint(path, config, host):
    """Save a model as the published script does; its average is better."""
    method = config["model"].split("_")[0]
    cell = Cell(
        dataset="digits",
        method=method,
        capacity="tiny",
        keep_rate=(config["keep_rate"] or [1.0])[0],
        reduction_loc=(3, 6, 9),
        recipe=Recipe(host=host, image_size=32),
    )
    weights = build_model(cell, 10, pretrained=host == HOST).state_dict()
    worse = {name: torch.zeros_like(x) for name, x in weights.items()}
    content = {
        "model": worse,
        "model_ema": weights,
        "optimizer": {"state": {}},
        "epoch": 12,
        "args": argparse.Namespace(**config),
        "ema_best": True,
    }
    path.parent.mkdir(parents=True)
    torch.save(content, path)


@pytest.fixture
def call(capsys, monkeypatch):
    """Call the command line; return its status, the lines of stdout, and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out.splitlines(), printed.err

    return call


@pytest.fixture
def import_project(call):
    """Import the project into a study; return what `call` does."""
    project = f"{ENTITY}/{PROJECT}"

    def import_project(study, *options, host=HOST):
        return call("import-wandb", project, study, "--host", host, *options)

    return import_project
