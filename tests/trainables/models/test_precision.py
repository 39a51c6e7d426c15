"""Which type a recipe's mixed precision means on a device, and that float16 trains scaled."""

import pytest
import torch

from trainables.models.device import autocast_dtype
from trainables.recipe import Recipe

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "device", "has_bf16", "expected"),
    [
        ("auto", GPU, True, torch.bfloat16),
        ("auto", GPU, False, torch.float16),
        ("auto", CPU, True, None),
        ("off", GPU, True, None),
        ("bf16", CPU, False, torch.bfloat16),
        ("fp16", GPU, True, torch.float16),
    ],
)
def test_auto_takes_what_the_device_has(monkeypatch, precision, device, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert autocast_dtype(Recipe(precision=precision), device) is expected


def test_float16_trains_with_a_scaled_loss(make_cell, finetune):
    cell = make_cell(precision="fp16", pretrained=True, batch_size=40, epochs=1, warmup_lr=1e-3)
    finetuning = finetune(cell)
    before = finetuning.model.head.weight.clone()
    report = finetuning.run(lambda: False)
    assert finetuning.state_dict()["scaler"]["scale"] >= 2**10
    assert 0 < report.loss < 10
    assert not torch.equal(finetuning.model.head.weight, before)
    plain = finetune(make_cell(precision="off"))
    assert plain.state_dict()["scaler"] == {}
