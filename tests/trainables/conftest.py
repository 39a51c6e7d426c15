"""A cell small enough to train in a test, with every source of randomness in its recipe."""

from multiprocessing import active_children
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from trainables.cell.cell import Cell
from trainables.data import open_dataset
from trainables.loop.opening import open_finetuning
from trainables.recipe import Recipe
from trainables.trial.config import TrialConfig

collect_ignore = [] if torch.cuda.is_available() else ["test_cuda.py"]
SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
REFERENCE = Path(__file__).parents[1] / "data" / "goldens"


@pytest.fixture(scope="session")
def reference():
    """Folder of the arrays made with the published study's own code."""
    return REFERENCE


@pytest.fixture
def own_processes():
    """Return a function that tells which processes started by this test live."""
    others = set(active_children())
    return lambda: set(active_children()) - others


@pytest.fixture(scope="session")
def make_cell():
    """Return a function that makes a cell on `image_folder`, its recipe's fields as keywords."""

    def make(method="topk", dataset="folder", options=None, keep_rate=0.5, **fields):
        recipe = {
            "host": "digits_{capacity}_patch4_32",
            "pretrained": False,
            "image_size": 32,
            "crop_ratio": 1.0,
            "batch_size": 20,
            "epochs": 2,
            "warmup_epochs": 1,
            "ema_decay": 0.9,
        }
        return Cell(
            dataset=dataset,
            method=method,
            capacity="tiny",
            keep_rate=keep_rate,
            reduction_loc=(3, 6, 9),
            options=options or {},
            recipe=Recipe(**(recipe | fields)),
        )

    return make


@pytest.fixture(scope="session")
def small_host():
    """Return a host of two blocks with random weights, which takes little time to trace."""
    torch.manual_seed(0)
    return timm.create_model("deit_tiny_patch16_224", num_classes=10, **SMALL).eval()


@pytest.fixture(scope="session")
def small_cell(make_cell, small_host, tmp_path_factory):
    """Return a function that makes a cell on that host, as `make_cell` does."""
    folder = tmp_path_factory.mktemp("host")
    save_for_hf(small_host, folder, model_args=SMALL)

    def make(method, **fields):
        cell = make_cell(method, host=f"local-dir:{folder}", **fields)
        return cell.model_copy(update={"reduction_loc": (1,)})

    return make


@pytest.fixture
def trial_config(image_folder, tmp_path):
    """Return a function that makes what Tune gives to the trial of a cell, in `tmp_path/cell`."""

    def config(cell, **others):
        return TrialConfig(
            cell_id=cell.id,
            cell=cell.model_dump_json(),
            folder=str(tmp_path / "cell"),
            data_root=str(image_folder),
            index_folder=str(tmp_path / "datasets"),
            stop_file=str(tmp_path / "stop"),
            **others,
        ).to_dict()

    return config


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Return a folder dataset with the first 160 training and 40 evaluation digits."""
    root = tmp_path_factory.mktemp("digits")
    digits = open_dataset("digits")
    for name, split, count in (("train", digits.train, 160), ("val", digits.val, 40)):
        for index in range(count):
            path = root / name / str(split.target(index)) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            split.image(index).save(path)
    return root


@pytest.fixture(scope="session")
def finetune(image_folder):
    """Return a function that makes a `Finetuning` on one CPU thread."""

    def make(cell):
        return open_finetuning(cell, data_root=image_folder, device=torch.device("cpu"), threads=1)

    return make
