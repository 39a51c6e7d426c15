"""One cell's training: resuming bit for bit, accumulation, averaging, selection, failure."""

import copy
import gc
import io
import math
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch.nn import functional

import reduction
from trainables.cell.not_finite import NonFiniteError
from trainables.data.loader import train_loader
from trainables.data.transforms import train_transform
from trainables.loop.optimizer import parameter_groups

EVERYTHING_ON = {
    "accumulation": 3,
    "drop_path": 0.3,
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "mixup": 0.8,
    "cutmix": 1.0,
    "clip_grad": 1.0,
}
"""8 batches an epoch in windows of 3, 3 and 2: 6 optimiser steps in all."""

PLAIN = {
    "drop_path": 0.0,
    "rand_augment": None,
    "mixup": 0.0,
    "cutmix": 0.0,
    "random_erasing": 0.0,
    "label_smoothing": 0.0,
}


def train(finetuning):
    reports = []
    while not finetuning.finished:
        reports.append(finetuning.run(lambda: False))
    return reports


def train_to(finetuning, step):
    while finetuning.step < step:
        finetuning.run(lambda: finetuning.step == step)
    return finetuning


def through_bytes(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def assert_same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    for part in ("model", "ema"):
        assert a[part].keys() == b[part].keys()
        assert [name for name in a[part] if not torch.equal(a[part][name], b[part][name])] == []
    for index, moments in a["moments"].items():
        assert all(torch.equal(moments[name], b["moments"][index][name]) for name in moments)
    for part in ("step", "accuracy", "best", "scaler"):
        assert a[part] == b[part]


@pytest.fixture(scope="module")
def randomised_cell(make_cell):
    return make_cell(**EVERYTHING_ON)


@pytest.fixture(scope="module")
def straight(randomised_cell, finetune):
    finetuning = finetune(randomised_cell)
    train(finetuning)
    return finetuning


def resume(finetuning, state):
    torch.rand(state["step"])  # The process that resumes has other random states.
    np.random.rand(state["step"])  # noqa: NPY002 - of this generator, too
    finetuning.load_state_dict(through_bytes(state))
    assert finetuning.step == state["step"]
    train(finetuning)
    return finetuning


@pytest.mark.parametrize(
    ("stop", "loaders"),
    [(1, (2, 0)), (2, (0, 2)), (3, (2, 1)), (4, (2, 2)), (5, (0, 0)), (6, (2, 0))],
)
def test_resuming_ends_bit_for_bit_where_never_stopping_ends(
    make_cell, straight, finetune, stop, loaders
):
    """Also where other numbers of processes load the images before and after."""
    before, after = (make_cell(**EVERYTHING_ON, loader_workers=n) for n in loaders)
    stopped = train_to(finetune(before), stop)
    stopped.close()
    assert_same_state(resume(finetune(after), stopped.state_dict()), straight)


@pytest.mark.parametrize(
    "method",
    ["dynamicvit", "random", "dpcknn", "cropr", "dtem", "idlevit", "mctf", "diffrate"],
)
def test_a_method_that_draws_or_learns_resumes_bit_for_bit_from_every_step(
    make_cell, finetune, method
):
    options = {"learned": True} if method == "diffrate" else None
    fields = {"epochs": 1, "batch_size": 32, "drop_path": 0.3, "accumulation": 2}
    cell = make_cell(method, options=options, **fields)
    straight, states = finetune(cell), []
    while not straight.finished:
        straight.run(lambda: True)
        states.append(copy.deepcopy(straight.state_dict()))
    assert [state["step"] for state in states] == [1, 2, 3]
    for state in states[:-1]:
        assert_same_state(resume(finetune(cell), state), straight)


@pytest.mark.parametrize("backbone", ["frozen", "lora"])
def test_a_backbone_that_rests_resumes_bit_for_bit(make_cell, finetune, backbone):
    """The evaluation at the end of the first of two epochs merges adapters in between."""
    fields = {"backbone": backbone, "pretrained": True, "lr": 1e-2, "warmup_epochs": 0}
    cell = make_cell("dpcknn", batch_size=80, accumulation=1, drop_path=0.3, **fields)
    straight, states = finetune(cell), []
    while not straight.finished:
        straight.run(lambda: True)
        states.append(copy.deepcopy(straight.state_dict()))
    for state in states[:3]:
        assert_same_state(resume(finetune(cell), state), straight)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_resumes_bit_for_bit(make_cell, finetune, precision):
    """Where float16's first steps overflow, its loss scale is part of the state."""
    cell = make_cell(precision=precision, epochs=1, batch_size=52, drop_path=0.3, accumulation=1)
    straight, states = finetune(cell), []
    poison_gradients(straight, at_scales_above=2**14)
    while not straight.finished:
        straight.run(lambda: True)
        states.append(copy.deepcopy(straight.state_dict()))
    for state in states[:2]:
        resumed = finetune(cell)
        poison_gradients(resumed, at_scales_above=2**14)
        assert_same_state(resume(resumed, state), straight)
    if precision == "fp16":
        assert [state["scaler"]["scale"] for state in states[:3]] == [2**15, 2**14, 2**14]


def test_a_cell_trains_on_the_threads_it_was_given_whatever_was_set(make_cell, finetune):
    torch.set_num_threads(2)
    finetune(make_cell())
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("method", "options"),
    [*((method, {}) for method in reduction.METHODS), ("diffrate", {"learned": True})],
)
def test_every_method_resumes_bit_for_bit(make_cell, finetune, method, options):
    cell = make_cell(method, options=options, epochs=1, batch_size=80, drop_path=0.3)
    straight = train_to(finetune(cell), 1)
    state = through_bytes(straight.state_dict())
    train(straight)
    resumed = finetune(cell)
    resumed.load_state_dict(state)
    train(resumed)
    assert_same_state(resumed, straight)


def test_pausing_within_a_process_changes_nothing(randomised_cell, straight, finetune):
    paused = finetune(randomised_cell)
    reports = []
    while not paused.finished:
        reports.append(paused.run(lambda: True))
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert [report.epoch_ended for report in reports] == [False, False, True] * 2
    assert_same_state(paused, straight)


def test_a_seed_of_its_own_gives_other_weights(randomised_cell, straight, finetune):
    other = finetune(randomised_cell.model_copy(update={"seed": 1}))
    train(other)
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(other.state_dict()["model"][name], straight.state_dict()["model"][name])


def test_a_training_that_is_let_go_is_gone_at_once(make_cell, finetune, own_processes):
    """And with it its memory on a device and its processes: none waits for Python's collector."""
    finetuning = finetune(make_cell(ema_decay=0.9, loader_workers=1))
    finetuning.run(until=lambda: True)
    finetuning.evaluate()
    left = [weakref.ref(x) for x in (finetuning, finetuning.model, finetuning.ema)]
    assert len(own_processes()) == 2
    gc.disable()
    try:
        del finetuning
        assert [reference() for reference in left] == [None] * 3
        assert not own_processes()
    finally:
        gc.enable()


def test_a_short_window_counts_its_own_batches(make_cell, finetune):
    """AdamW's first average is a tenth of the gradient, here the mean over two batches of 80."""
    cell = make_cell(accumulation=3, batch_size=80, **PLAIN)
    finetuning = finetune(cell)
    model = copy.deepcopy(finetuning.model).train()
    transform = train_transform(cell.recipe, "single_label", (0.5, 0.5, 0.5))
    loader = train_loader(finetuning.data.train, transform, batch_size=80, seed=0, epoch=0)
    pixels, targets, _ = (torch.cat(part) for part in zip(*loader, strict=True))
    images = (pixels / 255 - 0.5) / 0.5
    assert len(images) == 160
    functional.cross_entropy(model(images), targets).backward()
    train_to(finetuning, 1)
    for average, name in first_averages(finetuning):
        expected = 0.1 * model.get_parameter(name).grad
        torch.testing.assert_close(average, expected, rtol=1e-4, atol=1e-7)


def first_averages(finetuning):
    groups = parameter_groups(finetuning.model, finetuning.cell.recipe)
    names = [name for group in groups for name in group["names"]]
    moments = finetuning.state_dict()["moments"]
    return [(moments[index]["exp_avg"], name) for index, name in enumerate(names)]


def test_clipping_bounds_the_norm_of_all_gradients(make_cell, finetune):
    finetuning = train_to(finetune(make_cell(clip_grad=1e-3, **PLAIN)), 1)
    norms = [average.norm().item() for average, _ in first_averages(finetuning)]
    assert math.hypot(*norms) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_the_average_of_the_weights_moves_by_its_decay(make_cell, finetune):
    finetuning = finetune(make_cell(ema_decay=0.75, warmup_lr=1e-3))
    before = copy.deepcopy(finetuning.model.state_dict())
    state = train_to(finetuning, 1).state_dict()
    for name, start in before.items():
        expected = 0.75 * start + 0.25 * state["model"][name]
        torch.testing.assert_close(state["ema"][name], expected, rtol=1e-6, atol=1e-7)


def test_reports_say_where_the_cell_stands(make_cell, finetune):
    reports = train(finetune(make_cell()))
    assert [(r.epoch, r.step, r.finished) for r in reports] == [
        (1, 4, False),
        (2, 8, True),
    ]
    for report in reports:
        assert (report.epochs, report.total_steps, report.metric) == (2, 8, "top1")
        assert 0 < report.loss < 10
        assert report.loss_terms == {"classification": report.loss}
        assert 0 <= report.data_wait <= 1
        assert report.images_per_second > 0
        assert report.best_accuracy >= report.accuracy
    assert reports[0].best_improved


def test_the_better_of_model_and_average_is_the_best(make_cell, finetune):
    """Steps far too long ruin the pretrained model, but hardly touch its average."""
    harmful = {"lr": 0.1, "warmup_epochs": 0, "epochs": 1, "batch_size": 700}
    cell = make_cell(dataset="digits", pretrained=True, ema_decay=0.9999, **harmful)
    finetuning = finetune(cell)
    finetuning.run(lambda: False)
    weights, meta = finetuning.best
    assert (meta["source"], meta["epoch"], meta["metric"]) == ("ema", 1, "top1")
    assert meta["accuracy"] == finetuning.accuracy > 50
    average = finetuning.state_dict()["ema"]
    assert all(torch.equal(weights[name], average[name]) for name in average)


def test_best_weights_are_a_copy(make_cell, finetune):
    finetuning = finetune(make_cell(ema_decay=None, select_on="holdout"))
    finetuning.run(lambda: False)
    weights = copy.deepcopy(finetuning.best[0])
    finetuning.run(lambda: True)
    assert all(torch.equal(finetuning.best[0][name], tensor) for name, tensor in weights.items())


def test_best_weights_do_not_travel_with_the_state(make_cell, finetune):
    cell = make_cell(epochs=0, warmup_epochs=0)
    finetuning = finetune(cell)
    finetuning.run(lambda: False)
    resumed = finetune(cell)
    resumed.load_state_dict(through_bytes(finetuning.state_dict()))
    assert resumed.finished
    assert resumed.result() == finetuning.result()
    with pytest.raises(RuntimeError, match="none found since loading"):
        _ = resumed.best


def test_without_epochs_the_start_weights_are_evaluated(make_cell, finetune):
    finetuning = finetune(make_cell(epochs=0, warmup_epochs=0, ema_decay=None))
    start = copy.deepcopy(finetuning.model.state_dict())
    report = finetuning.run(lambda: False)
    assert (report.finished, report.best_improved, report.loss) == (True, True, None)
    assert (report.epoch, report.total_steps) == (0, 0)
    assert all(torch.equal(finetuning.best[0][name], start[name]) for name in start)


def test_a_holdout_is_neither_trained_on_nor_the_reported_split(make_cell, finetune):
    finetuning = finetune(make_cell(select_on="holdout", batch_size=8, epochs=1))
    finetuning.run(lambda: False)
    assert finetuning.result()["train_images"] == 160 - 8
    assert finetuning.result()["select_on"] == "holdout"
    assert finetuning.accuracy % 12.5 == 0, "8 images are scored"


def test_a_loss_that_is_not_finite_ends_the_attempt(make_cell, finetune):
    finetuning = finetune(make_cell("dynamicvit", lr=1e38, warmup_epochs=0, **PLAIN))
    with pytest.raises(NonFiniteError) as raised:
        finetuning.run(lambda: False)
    error = pickle.loads(pickle.dumps(raised.value))  # As from one process to another.
    assert error.step == 1 < finetuning.step  # It is read with what later steps found.
    assert list(error.found) == ["classification", "keep rate", "gradient norm"]
    assert not math.isfinite(error.found["classification"])
    assert "not finite after 1 optimiser steps: classification nan, keep rate" in str(error)


def poison_gradients(finetuning, *, at_scales_above):
    """Make gradients, but no loss, infinite where float16's loss scale is too high."""
    parameter = finetuning.model.head.weight

    def overflow(gradient):
        scale = finetuning.state_dict()["scaler"].get("scale", 1.0)
        return torch.full_like(gradient, math.inf) if scale > at_scales_above else gradient

    parameter.register_hook(overflow)


def test_gradients_that_are_not_finite_end_the_attempt(make_cell, finetune):
    finetuning = finetune(make_cell(**PLAIN))
    poison_gradients(finetuning, at_scales_above=0)
    with pytest.raises(NonFiniteError) as raised:
        finetuning.run(lambda: False)
    assert math.isfinite(raised.value.found["classification"])
    assert raised.value.found["gradient norm"] == math.inf


def test_gradients_that_only_the_loss_scale_makes_infinite_are_left_out(make_cell, finetune):
    finetuning = finetune(make_cell(precision="fp16", **PLAIN))
    start = copy.deepcopy(finetuning.model.state_dict())
    poison_gradients(finetuning, at_scales_above=2**14)
    scales, changed = [], []
    for step in (1, 2, 3):
        train_to(finetuning, step)
        scales.append(finetuning.state_dict()["scaler"]["scale"])
        now = finetuning.model.state_dict()
        changed.append(not all(torch.equal(start[name], now[name]) for name in start))
    assert (scales, changed) == ([2**15, 2**14, 2**14], [False, False, True])


def test_gradients_that_no_loss_scale_makes_finite_end_the_attempt(make_cell, finetune):
    finetuning = finetune(make_cell(precision="fp16", batch_size=4, **PLAIN))
    poison_gradients(finetuning, at_scales_above=0)
    with pytest.raises(NonFiniteError) as raised:
        finetuning.run(lambda: False)
    assert raised.value.step == 15  # 2^16 halved down to 1, where it scales no longer.


def test_an_evaluation_that_is_not_finite_ends_the_attempt(make_cell, finetune):
    """The epoch's only step is fine, but leaves weights that are not; no loss follows it."""
    cell = make_cell(batch_size=80, accumulation=2, lr=1e38, warmup_epochs=0, **PLAIN)
    with pytest.raises(NonFiniteError, match=r"after 1 optimiser steps: logits of model nan") as e:
        finetune(cell).run(lambda: False)
    assert list(e.value.found) == ["logits of model", "logits of ema"]


def test_several_labels_train_with_their_own_metric(make_cell, finetune):
    cell = make_cell(dataset="digits_multi", epochs=1, ema_decay=None, batch_size=700)
    report = finetune(cell).run(lambda: False)
    assert report.metric == "map"
    assert 0 < report.accuracy < 100


def test_mixed_precision_leaves_weights_in_float32(make_cell, finetune):
    finetuning = train_to(finetune(make_cell(precision="bf16")), 1)
    assert {p.dtype for p in finetuning.model.parameters()} == {torch.float32}
    full = train_to(finetune(make_cell(precision="off")), 1)
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(finetuning.model.state_dict()[name], full.model.state_dict()[name])
