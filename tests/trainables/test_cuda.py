"""Training on a CUDA device; collected where there is one."""

import pytest
import torch

from trainables.loop import Finetuning

RECIPE = {"pretrained": True, "lr_reference_batch": 64, "accumulation": 2, "loader_workers": 1}


@pytest.fixture(params=["off", "bf16", "fp16"])
def start(request, make_cell, image_folder):
    """Return a function that starts to finetune a cell on the GPU."""
    cell = make_cell(precision=request.param, **RECIPE)
    device = torch.device("cuda")
    return lambda: Finetuning(cell, data_root=image_folder, device=device, threads=1)


def run(finetuning, until=lambda: False):
    return finetuning.run(until)


def test_learns_and_goes_on_where_it_stopped(start):
    whole = start()
    reports = [run(whole), run(whole)]
    assert whole.finished
    assert reports[-1]["accuracy"] > 60  # of ten classes; the host has learnt digits before

    stopped = start()
    run(stopped, lambda: stopped.step == 2)
    resumed = start()
    resumed.load_state_dict(stopped.state_dict())
    while not resumed.finished:
        run(resumed)
    ours, theirs = resumed.state_dict()["model"], whole.state_dict()["model"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
