"""Newer methods against arrays made by running their authors' code, in both precisions."""

import copy
import json
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import reduction

BATCH_CASE = "hatp/loc3/r53_batch4"
STUDY_RATES = (0.5, 0.7, 0.9)


class Case(NamedTuple):
    name: str
    """In the reference arrays; the method's own name comes first."""
    schedule: dict[str, Any]
    options: dict[str, Any] = {}  # noqa: RUF012

    @property
    def method(self):
        return self.name.split("/")[0]


def study(method, **options):
    return [
        Case(f"{method}/kr{rate:.2f}/loc3-6-9", {"keep_rate": rate}, options)
        for rate in STUDY_RATES
    ]


def every(r, blocks=range(12)):
    return {"r": r, "reduction_loc": blocks}


def by_ratio(ratio, prefix):
    """Counts after each of 12 blocks that keep a `ratio` of the sequence with `prefix` tokens."""
    counts = [196]
    for _ in range(12):
        total = counts[-1] + prefix
        counts.append(counts[-1] - math.floor(total - total * ratio))
    return {"tokens": counts[1:], "reduction_loc": range(12)}


def resting(rate):
    """Counts of blocks 3 to 11, three of each."""
    counts = [int(rate ** (1 + (block - 3) // 3) * 196) for block in range(3, 12)]
    return {"tokens": counts, "reduction_loc": range(3, 12)}


CASES = [
    *study("tome"),
    *(Case(f"tome/r{r}", every(r)) for r in (8, 13, 16)),
    *(Case(f"tome/r{r}_dec", every((r, -1.0))) for r in (8, 13)),
    Case("tome/r8_noprop", every(8), {"proportional": False}),
    Case("tome/rlist0-30-0-30-20", every([0, 30, 0, 30, 20])),
    *study("pitome"),
    *(Case(f"pitome/ratio{x}", by_ratio(x, 0)) for x in (0.9, 0.925, 0.95)),
    Case("pitome/ratio0.9/bsm_last", by_ratio(0.9, 0), {"first": "protect"}),
    *study("tofu"),
    *(Case(f"tofu/ratio{x}", by_ratio(x, 1)) for x in (0.9, 0.925, 0.95)),
    *study("dtem"),
    *(Case(f"dtem/r{r}", every(r)) for r in (8, 16)),
    *study("diffrate"),
    *(
        Case(f"diffrate/{name}", {})
        for name in ("ViT-T-DeiT_0.8", "ViT-T-DeiT_1.0", "ViT-S-DeiT_2.9")
    ),
    *study("ppt"),
    Case("ppt/r50", every(50, (3, 6, 9))),
    *study("mctf"),
    *(Case(f"mctf/r{r}", every(r, range(1, 12))) for r in (8, 16)),
    Case("mctf/fast0.35", {"tokens": [128, 84, 55]}),
    *(
        Case(f"mctf/r16/{name}", every(16, range(1, 12)), options)
        for name, options in {
            "ahead0": {"ahead": 0},
            "ahead2": {"ahead": 2},
            "oneway": {"two_way": False},
            "poolsize": {"pool": "size"},
            "nosize_noinfo": {"ti": 0, "tz": 0},
        }.items()
    ),
    *study("gtp"),
    Case("gtp/p8", every(8)),
    Case("gtp/p13_s0.7_a0.3", every(13), {"sparsity": 0.7, "alpha": 0.3}),
    Case("gtp/p8_noscale_dense", every(8), {"scales": False, "sparsity": 1.0}),
    Case("gtp/p8_nb4_spatial", every(8), {"graph": "spatial"}),
    *study("hatp"),
    *(Case(f"hatp/loc3/r{r}", every(r, (3,))) for r in (53, 110)),
    *study("cropr"),
    Case("cropr/kr0.70/loc3-6-9/llf", {"keep_rate": 0.7}, {"llf": True}),
    Case("cropr/r16", every([17, *[16] * 10], range(1, 12))),
    *(
        Case(f"cropr/r{r}_llf", every([r + 1, *[r] * 9], range(1, 11)), {"llf": True})
        for r in (8, 16)
    ),
    *(Case(f"idlevit/kr{rate:.2f}/blocks3..11", resting(rate)) for rate in STUDY_RATES),
    Case("idlevit/kr0.70/loc3-6-9", {"keep_rate": 0.7}),
]


@pytest.fixture(scope="module")
def facts(golden_folder):
    return json.loads((golden_folder / "newer_A.json").read_text())


@pytest.fixture(scope="module")
def parameters(golden_folder):
    with np.load(golden_folder / "newer_extras_A.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def published_options(case, facts):
    """The options of a case, with the counts that come with the arrays."""
    if case.method != "diffrate" or case.schedule:
        return case.options
    counts = facts["cases"][case.name]
    return {"prune": tuple(counts["prune_kept"]), "merge": tuple(counts["merge_kept"])}


class Run(NamedTuple):
    case: Case
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


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def run(request, reference_host, reference_images, newer_cases, facts, parameters):
    case = request.param
    options = published_options(case, facts)
    model = reduction.reduce(copy.deepcopy(reference_host), case.method, **case.schedule, **options)
    for stage in model.stages:
        for name, parameter in stage.named_parameters():
            if name.startswith("auxiliary."):  # of training alone
                continue
            parameter.data = parameters[extra_name(case.method, stage, name)].clone()
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


def extra_name(method, stage, name):
    if method == "dtem":
        return f"dtem.block{stage.spec.block}.{name.removeprefix('metric.')}"
    return f"cropr.module{stage.spec.block - 1}.{name}"


def test_every_array_has_a_case(facts):
    names = {name for name in facts["cases"] if name.split("/")[0] in reduction.METHODS}
    assert {case.name for case in CASES} == names - {BATCH_CASE}


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
