"""Open the training of a cell: its data, its model and its teacher."""

from pathlib import Path

import torch

from trainables.cell.cell import Cell
from trainables.loop.data import CellData
from trainables.loop.loop import Finetuning
from trainables.models.host import build_model
from trainables.models.teacher import load_teacher
from trainables.storage.paths import StorePath
from trainables.workers import ALONE, Workers


def open_finetuning(
    cell: Cell,
    *,
    data_root: Path | None,
    host_weights: Path | None = None,
    index_folder: Path | None = None,
    teacher_folder: StorePath | None = None,
    device: torch.device,
    threads: int,
    ranks: Workers = ALONE,
) -> Finetuning:
    """Return the training of a cell, before its first step.

    Args:
        cell: What is trained.
        data_root: The dataset's folder; None for an embedded dataset.
        host_weights: Folder of the hosts' pretrained weights; None lets timm download them.
        index_folder: Folder of the datasets' indices; None keeps none.
        teacher_folder: Folder of the cell's prerequisite in the store, None if it has none.
        device: Where to train.
        threads: CPU threads of PyTorch in this process.
        ranks: This process among those that train the cell together.
    """
    torch.set_num_threads(threads)
    data = CellData(cell, data_root, host_weights, index_folder, ranks)
    model = build_model(cell, len(data.dataset.class_names), weights=host_weights).to(device)
    teacher = load_teacher(cell, model, data.dataset, teacher_folder, host_weights)
    return Finetuning(cell, model, data, teacher, device=device, ranks=ranks)
