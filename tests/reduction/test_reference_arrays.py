"""Whole models against arrays made with the published study's own code, in both precisions."""

import copy

import numpy as np
import pytest
import torch
from reference_cases import RUNS, arrays_of, prefix, study_model

import reduction
from reduction.trace import ReductionTrace


def on_cpu(trace):
    """The same trace, so that NumPy can read it."""

    def moved(value):
        return {block: x.cpu() for block, x in value.items()} if isinstance(value, dict) else value

    return ReductionTrace(**{name: moved(value) for name, value in vars(trace).items()})


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: prefix(*run))
def run(request, device, reference_host, reference_images, reference_cases, reference_extras):
    """The case's arrays, the model, and its logits and trace on the reference images."""
    case, rate = request.param
    name = prefix(case, rate)
    arrays = arrays_of(name, reference_cases)
    model = study_model(case, rate, reference_host, arrays, reference_extras).to(device)
    with torch.no_grad():
        logits, trace = model.forward_with_trace(reference_images.to(device), weights=True)
    return name, arrays, model, logits.cpu(), on_cpu(trace)


def test_logits(run):
    _, arrays, _, logits, _ = run
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=5e-5)


def test_logits_in_double_precision(run, device, reference_images):
    _, arrays, model, _, _ = run
    with torch.no_grad():
        logits = copy.deepcopy(model).double()(reference_images.double().to(device)).cpu()
    np.testing.assert_allclose(logits, arrays["logits_f64"], rtol=0, atol=1e-9)


def test_cls_features(run):
    _, arrays, _, _, trace = run
    expected = {int(key[5:-4]): arrays[key] for key in arrays if key.endswith("/cls")}
    assert [*expected, 11] == list(trace.cls)
    for block, features in (expected | {11: arrays["cls_last"]}).items():
        np.testing.assert_allclose(trace.cls[block], features, rtol=0, atol=5e-5)


def test_kept_tokens(run):
    _, arrays, _, _, trace = run
    keys = [key for key in arrays if key.endswith("kept_abs")]
    assert set(trace.kept) == {int(key.split("/")[0][5:]) for key in keys}
    for key in keys:
        ours = trace.kept[int(key.split("/")[0][5:])]
        for kept, expected in zip(ours.numpy(), arrays[key], strict=True):
            np.testing.assert_array_equal(kept[kept >= 0], expected[expected >= 0])


def test_assignment(run):
    _, arrays, _, _, trace = run
    keys = [key for key in arrays if key.endswith("/assign")]
    assert set(trace.assignment) == {int(key.split("/")[0][5:]) for key in keys}
    composed = np.arange(196)[None].repeat(4, axis=0)
    for key in keys:
        block = int(key.split("/")[0][5:])
        decisive = arrays.get(f"{key}_decisive", np.ones_like(arrays[key])) == 1
        ours = trace.assignment[block].numpy()
        np.testing.assert_array_equal(ours[decisive], arrays[key][decisive])
        composed = np.take_along_axis(ours, composed, axis=1)
        np.testing.assert_array_equal(trace.groups[block], composed)


def test_soft_weights(run, reference_soft_maps):
    name, _, _, _, trace = run
    expected = [key for key in reference_soft_maps if key.startswith(f"{name}/")]
    for key in expected:
        block = int(key.split("/")[-2][5:])
        np.testing.assert_allclose(
            trace.weights[block], reference_soft_maps[key], rtol=0, atol=1e-5
        )


def test_token_counts(run):
    name, arrays, model, _, trace = run
    if name.startswith("heuristic"):  # the study masks instead of dropping: counts are in n_kept
        expected = [arrays[f"stage{block}/n_kept"] for block in trace.stages]
    else:
        expected = arrays["n_tokens"][:, None].repeat(4, axis=1)
    tokens = torch.stack([trace.tokens[block] for block in trace.stages]).numpy()
    if model.method == "ats":  # the study counts the padding of the batch
        tokens = tokens.max(axis=1, keepdims=True).repeat(4, axis=1)
    np.testing.assert_array_equal(tokens, expected)


def test_baseline(reference_host, reference_images, reference_cases):
    model = reduction.reduce(reference_host, "deit", reduction_loc=range(11))
    with torch.no_grad():
        logits, trace = model.forward_with_trace(reference_images)
    np.testing.assert_allclose(logits, reference_cases["deit/logits"], rtol=0, atol=5e-5)
    features = torch.stack(list(trace.cls.values()))
    np.testing.assert_allclose(features, reference_cases["deit/cls_all_blocks"], rtol=0, atol=5e-5)
    assert not trace.kept
    assert not trace.groups
