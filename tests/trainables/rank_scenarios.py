"""What the processes of `test_ranks.py` do; a module of its own, as they import it by name."""

import io
from datetime import timedelta
from pathlib import Path

import torch
from backends import Backend
from torch.distributed import TCPStore

import trainables.loop.opening
from trainables.cell.cell import Cell
from trainables.cell.not_finite import NonFiniteError
from trainables.loop.opening import open_finetuning
from trainables.models import compiling
from trainables.models.host import build_model
from trainables.trial.cell_training import CellTraining
from trainables.trial.config import TrialConfig
from trainables.workers import ALONE, joined

CPU = torch.device("cpu")


def run(rank, size, port, scenario, *arguments):
    """Run a scenario as one of `size` ranks that meet at a port of this machine."""
    if size == 1:
        return scenario(ALONE, *arguments)
    store = TCPStore("127.0.0.1", port, timeout=timedelta(seconds=60))
    with joined(store, rank, size, CPU) as ranks:
        return scenario(ranks, *arguments)


def double_model(*arguments, **options):
    """Build a model in float64: AdamW turns rounding of gradients near 0 into whole steps."""
    model = build_model(*arguments, **options).double()
    model.patch_embed.register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    return model


def finetuning_of(ranks, cell, root):
    return open_finetuning(
        Cell.model_validate(cell), data_root=Path(root), device=CPU, threads=1, ranks=ranks
    )


def train(ranks, cell, root, state=None, stop=None):
    """Train from a state to step `stop`, or to the end; return how it went and the state."""
    trainables.loop.opening.build_model = double_model
    finetuning = finetuning_of(ranks, cell, root)
    if state is not None:
        finetuning.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    reports = []
    while not finetuning.finished and finetuning.step != stop:
        reports.append(finetuning.run(lambda: finetuning.step == stop))
    buffer = io.BytesIO()
    torch.save(finetuning.state_dict(), buffer)
    return {"reports": reports, "state": buffer.getvalue(), "result": finetuning.result()}


def train_compiled(ranks, cell, root, broken):
    """Train to the end with backends that break as `broken` says of each rank."""
    torch.compiler.reset()
    compiling.BACKEND = backend = Backend(broken[ranks.rank])
    return train(ranks, cell, root) | {"graphs": backend.graphs}


def train_in_folder(ranks, config, steps):
    """Train in a cell's folder, saving after each of so many optimiser steps."""
    trainables.loop.opening.build_model = double_model
    training = CellTraining(TrialConfig(**config), ranks)
    reports = [training.step() for _ in range(steps)]
    training.close()  # Waits for the last state to be written.
    return reports


def train_with_a_bad_loss(ranks, cell, root):
    """Make the last rank's loss not a number; return what the attempt ends with."""
    finetuning = finetuning_of(ranks, cell, root)
    if ranks.rank == ranks.size - 1:
        finetuning._objective = lambda output, *_: {
            "classification": output.logits.sum() * torch.nan
        }
    try:
        finetuning.run(lambda: False)
    except NonFiniteError as error:
        return str(error)
    return None


def stop_one(ranks, cell, root):
    """Let only the last rank want to stop; return the step at which this one does."""
    finetuning = finetuning_of(ranks, cell, root)
    finetuning.run(lambda: ranks.rank == ranks.size - 1 and finetuning.step >= 2)
    return finetuning.step
