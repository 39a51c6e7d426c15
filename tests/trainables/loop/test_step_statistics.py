"""What steps find stays on the device until their steps ends, and is then judged in order."""

import math

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import reduction
from trainables.cell.not_finite import NonFiniteError
from trainables.loop.step_statistics import StepStatistics
from trainables.trial.calibration import rehearsal
from trainables.workers import ALONE, Workers

READING = {
    *("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__"),
    *("__index__", "__contains__", "tensor", "as_tensor", "from_numpy"),
}
"""Functions of tensors that bring values from the device to the host, or wait to bring some."""
READING_OPERATORS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "lift_fresh", "nonzero"),
    *("masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
}
"""Those that other functions call; the size of some results is known only on the device."""


class NoReadingByName(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function.__name__ not in READING, f"{function.__name__} waits for the device"
        return function(*args, **(kwargs or {}))


class NoReadingByOperator(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name.startswith(("index", "_index_put")) and isinstance(args[1], (list, tuple))
        masked = masks and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert not masked, f"{name} by a mask waits for the device"
        assert name not in READING_OPERATORS, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.fixture
def rehearse(make_cell):
    """Return a function that makes a training on images that are there."""

    def make(method, **fields):
        fields = {"batch_size": 4, "accumulation": 2, "epochs": 1, "clip_grad": 1.0} | fields
        rate = 1.0 if method == "deit" else 0.5
        cell = make_cell(method, keep_rate=rate, **fields)
        return rehearsal(cell, host_weights=None, device=torch.device("cpu"), threads=1)

    return make


def step_without_reading(training):
    training.run(lambda: True)  # Makes what is made once.
    training.model.train()
    with NoReadingByName(), NoReadingByOperator():
        training._train_step(StepStatistics(training.step))


@pytest.mark.parametrize("method", [m for m in reduction.METHODS if m != "ats"])
def test_no_step_waits_for_what_it_computes(rehearse, method):
    step_without_reading(rehearse(method, drop_path=0.3))


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("topk", {"precision": "fp16"}),
        ("topk", {"precision": "bf16", "distillation": "soft"}),
        ("dynamicvit", {"distillation": "dynamicvit"}),
    ],
)
def test_neither_scaling_nor_a_teacher_waits(rehearse, method, fields):
    host = {"host": "deit_tiny_distilled_patch16_224", "image_size": 64, "batch_size": 2}
    heads = host if fields.get("distillation") == "soft" else {}
    step_without_reading(rehearse(method, **fields, **heads))


def test_a_method_whose_budget_is_not_fixed_has_to_wait(rehearse):
    """Its batch's longest image decides how long the others are made: see what finds it."""
    with pytest.raises(AssertionError, match="waits for the device"):
        step_without_reading(rehearse("ats"))


@pytest.mark.parametrize("method", reduction.METHODS)
def test_a_first_step_that_is_not_finite_is_named_after_all_others(rehearse, method):
    """Every method stands the steps that follow on weights that are not numbers."""
    training, ends = rehearse(method), 3

    def poison(gradient):
        return torch.full_like(gradient, math.inf) if training.step == 1 else gradient

    training.model.blocks[0].attn.qkv.weight.register_hook(poison)
    with pytest.raises(NonFiniteError) as raised:
        training.run(lambda: training.step == ends)
    assert (raised.value.step, training.step) == (1, ends)
    assert math.isfinite(raised.value.found["classification"])
    assert not math.isfinite(raised.value.found["gradient norm"])


class Collectives(Workers):
    """Stands for two ranks of which the other found the same."""

    asked = 0

    def sum(self, values):
        type(self).asked += 1
        return [2 * value for value in values]


def steps_of(*rows):
    steps = StepStatistics(first_step=5)
    for loss, penalty, norm, scale in rows:
        terms = {"classification": torch.tensor(loss), "keep rate": torch.tensor(penalty)}
        steps.note(terms, torch.tensor(norm), torch.tensor(scale))
    return steps


def test_ranks_add_up_their_terms_once_a_steps():
    steps = steps_of((1.0, 0.25, 3.0, 1.0), (2.0, 0.75, 4.0, 1.0))
    steps.read(Collectives())
    assert Collectives.asked == 1
    assert steps.losses == [
        {"classification": 2.0, "keep rate": 0.5},
        {"classification": 4.0, "keep rate": 1.5},
    ]
    steps.seconds, steps.images = 2.0, 10
    assert steps.loss == 4.0
    assert steps.loss_terms == {"classification": 3.0, "keep rate": 1.0}
    assert (steps.images_per_second, steps.data_wait) == (5.0, 0.0)


@pytest.mark.parametrize(
    ("scale", "step"),
    [(2.0**15, None), (1.0, 6)],
    ids=["left out by the scaler", "with nothing left to lower"],
)
def test_each_step_is_judged_by_its_own_scale(scale, step):
    steps = steps_of((1.0, 0.0, 1.0, 2.0**16), (1.0, 0.0, math.inf, scale), (1.0, 0.0, 1.0, 1.0))
    if step is None:
        steps.read(ALONE)
        assert len(steps.losses) == 3
    else:
        with pytest.raises(NonFiniteError, match="not finite after 6 optimiser steps"):
            steps.read(ALONE)


def test_a_steps_without_steps_has_nothing_to_report():
    steps = StepStatistics(first_step=0)
    steps.read(ALONE)
    assert steps.loss is steps.loss_terms is None
    assert steps.images_per_second is steps.data_wait is None
