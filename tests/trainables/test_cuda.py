"""Training on a CUDA device; collected where there is one."""

import pytest
import torch

from trainables.loop.opening import open_finetuning

RECIPE = {"lr_reference_batch": 64, "accumulation": 2, "loader_workers": 1}
TOLERANCE = {"off": 1e-2, "bf16": 5e-2, "fp16": 1e-2}


@pytest.fixture(params=TOLERANCE)
def precision(request):
    return request.param


@pytest.fixture
def start(make_cell, image_folder):
    """Return a function that starts to finetune a cell on a device."""

    def start(precision, device="cuda"):
        cell = make_cell(precision=precision, **RECIPE)
        return open_finetuning(cell, data_root=image_folder, device=torch.device(device), threads=1)

    return start


def losses(finetuning):
    reports = []
    while not finetuning.finished:
        reports.append(finetuning.run(lambda: True).loss)
    return torch.tensor([loss for loss in reports if loss is not None])


def test_losses_are_those_of_a_cpu(start, precision):
    cpu, gpu = losses(start("off", "cpu")), losses(start(precision))
    torch.testing.assert_close(gpu, cpu, rtol=TOLERANCE[precision], atol=0)


def test_goes_on_where_it_stopped(start, precision):
    whole, stopped, resumed = start(precision), start(precision), start(precision)
    losses(whole)
    stopped.run(lambda: stopped.step == 2)
    resumed.load_state_dict(stopped.state_dict())
    losses(resumed)
    ours, theirs = resumed.state_dict()["model"], whole.state_dict()["model"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
