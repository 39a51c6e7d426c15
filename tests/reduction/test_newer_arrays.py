"""Newer methods against arrays made by running their authors' code, in both precisions."""

import copy
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from reference_cases import NEWER_CASES, NewerCase, newer_model

import reduction

BATCH_CASE = "hatp/loc3/r53_batch4"


@pytest.fixture(scope="module")
def facts(golden_folder):
    return json.loads((golden_folder / "newer_A.json").read_text())


@pytest.fixture(scope="module")
def parameters(golden_folder):
    with np.load(golden_folder / "newer_extras_A.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


class Run(NamedTuple):
    case: NewerCase
    arrays: dict
    offset: int
    """Blocks from a stage in the arrays to ours: cropr's are named by the block before."""
    single: tuple
    """Logits and trace in float32."""
    double: tuple
    """The same in float64."""

    def stages(self, kind):
        """Reducing block -> (array of that kind, images that are stable up to there)."""
        found = {}
        for block in self.arrays["blocks"]:
            array, stable = (self.arrays.get(f"stage{block}/{name}") for name in (kind, "stable"))
            if array is not None:
                found[int(block) + self.offset] = (array, stable)
        return found


@pytest.fixture(scope="module", params=NEWER_CASES, ids=lambda case: case.name)
def run(request, reference_host, reference_images, newer_cases, facts, parameters):
    case = request.param
    model = newer_model(case, reference_host, facts, parameters)
    with torch.no_grad():
        single = model.forward_with_trace(reference_images)
        double = copy.deepcopy(model).double().forward_with_trace(reference_images.double())
    prefix = f"{case.name}/"
    arrays = {
        name.removeprefix(prefix): array
        for name, array in newer_cases.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith("llf/")
    }
    return Run(case, arrays, int(case.method == "cropr"), single, double)


def test_every_array_has_a_case(facts):
    names = {name for name in facts["cases"] if name.split("/")[0] in reduction.METHODS}
    assert {case.name for case in NEWER_CASES} == names - {BATCH_CASE}


def test_hatp_by_image(reference_host, reference_images, newer_cases):
    # The authors' code takes a maximum over the batch, which changes what two of the images keep.
    model = reduction.reduce(reference_host, "hatp", r=53, reduction_loc=(3,))
    with torch.no_grad():
        _, trace = model.forward_with_trace(reference_images)
    kept = trace.kept[3].sort(dim=1).values.numpy()
    same = (kept == newer_cases[f"{BATCH_CASE}/stage3/kept_abs"]).all(axis=1)
    assert same.sum() == 2


def test_token_counts(run):
    for block, count in zip(run.arrays["blocks"], run.arrays["n_tokens"], strict=True):
        assert run.single[1].tokens[int(block) + run.offset].tolist() == [count] * 4


@pytest.mark.parametrize("precision", ["single", "double"])
def test_merged_tokens(run, precision):
    _, trace = getattr(run, precision)
    for kind, ours in (("assign", trace.assignment), ("groups_abs", trace.groups)):
        for block, (expected, stable) in run.stages(kind).items():
            images = stable == 1
            np.testing.assert_array_equal(ours[block][images], expected[images])


@pytest.mark.parametrize("precision", ["single", "double"])
def test_kept_tokens(run, precision):
    _, trace = getattr(run, precision)
    for block, (expected, stable) in run.stages("kept_abs").items():
        images = stable == 1
        kept = trace.kept[block].sort(dim=1).values
        np.testing.assert_array_equal(kept[images], expected[images])


def test_logits(run):
    images = run.arrays["logits_stable"] == 1
    loose = run.case.method == "gtp"  # a probability may sit at the threshold of sparsity
    np.testing.assert_allclose(
        run.single[0][images],
        run.arrays["logits"][images],
        rtol=0,
        atol=4e-3 if loose else 1e-4,
    )


def test_outputs_in_double_precision(run):
    stable = [array == 1 for name, array in run.arrays.items() if name.endswith("/stable")]
    images = np.logical_and.reduce(stable)
    assert images.any()
    logits, trace = run.double
    np.testing.assert_allclose(logits[images], run.arrays["logits_f64"][images], rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        trace.cls[11][images], run.arrays["cls_last_f64"][images], rtol=0, atol=1e-9
    )
