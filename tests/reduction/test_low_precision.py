"""Decisions under autocast against those in float32, on the reference images."""

import copy

import pytest
import torch

import reduction
from reduction.model import ReducedVisionTransformer

BLOCKS = (3, 6, 9)
RATES = (0.25, 0.7)
METHODS = [name for name in reduction.METHODS if name not in ("deit", "dtem")]
"""DTEM decides by what it learns: untrained, its similarities are nearly ties."""
EXTRAS = {"dynamicvit": "dyvit"}
AS_MADE = ("cropr",)
"""Methods without parameters among the study's arrays."""
PRECISIONS = [("cpu", torch.bfloat16)]
if torch.cuda.is_available():
    PRECISIONS += [("cuda", torch.bfloat16), ("cuda", torch.float16)]

FROM_THE_SAME_TOKENS = 0.99
# A little below what was measured in bfloat16 (docs/benchmarks.md): the host's features differ, and
# how products round depends on the device.
WHOLE_MODEL = dict.fromkeys(METHODS, 0.985) | {
    "ats": 0.7,
    "dynamicvit": 0.97,
    "tome": 0.92,
    "atc": 0.82,
    "kmedoids": 0.65,
    "dpcknn": 0.8,
    "pitome": 0.43,
    "tofu": 0.97,
    "ppt": 0.9,
    "mctf": 0.8,
    "diffrate": 0.91,
    "gtp": 0.97,
}

BFLOAT16 = [pair for pair in PRECISIONS if pair[1] is torch.bfloat16]


@pytest.fixture(params=PRECISIONS, ids=lambda pair: f"{pair[0]}-{str(pair[1])[6:]}")
def precision(request):
    return request.param


@pytest.fixture
def autocast(precision):
    """Give a function that returns a context in this precision, or, if told so, in none."""
    return lambda enabled: torch.autocast(*precision, enabled=enabled)


def alike(trace, other, family):
    """Decisions of `trace`, whether `other` makes them too: a list of bools over all stages."""
    same = []
    for block in trace.stages:
        if family == "soft":
            best, second = trace.weights[block].topk(2, dim=1).values.unbind(dim=1)
            decisive = best > 1.02 * second
            equal = trace.assignment[block] == other.assignment[block]
            same += equal[decisive].tolist()
        elif block in trace.groups:
            equal = first_members(trace.groups[block]) == first_members(other.groups[block])
            same += equal.flatten().tolist()
        else:
            for kept, others in zip(trace.kept[block], other.kept[block], strict=True):
                same += torch.isin(kept[kept >= 0], others).tolist()
    return same


def share(same, method):
    """The share of equal decisions; `pytest -rP` shows it."""
    print(f"{method}: {sum(same) / len(same):.3f} of {len(same)} decisions are the same")  # noqa: T201
    return sum(same) / len(same)


def first_members(groups):
    """For every patch the first patch of its group, [B, N0]: a name that depends on no order."""
    together = groups[:, :, None] == groups[:, None, :]
    return together.int().argmax(dim=2)


@pytest.fixture
def make_model(precision, reference_host, load_extras):
    def make(method, rate, blocks):
        host = copy.deepcopy(reference_host)
        model = reduction.reduce(host, method, keep_rate=rate, reduction_loc=blocks)
        if method not in AS_MADE:
            load_extras(model, EXTRAS.get(method, method))
        return model.to(precision[0])

    return make


@pytest.fixture
def images(precision, reference_images):
    return reference_images.to(precision[0])


@pytest.fixture
def autocast_where(monkeypatch, autocast):
    """Give a function that switches autocast on in the blocks whose stage it is told to take."""
    run_block = ReducedVisionTransformer._run_block
    switch = {"wanted": lambda stage: False}

    def run(self, block, stage, tokens, following):
        with autocast(switch["wanted"](stage)):
            return run_block(self, block, stage, tokens, following)

    monkeypatch.setattr(ReducedVisionTransformer, "_run_block", run)
    return lambda wanted: switch.update(wanted=wanted)


def in_no_block(stage):
    return False


def in_blocks_that_reduce(stage):
    return stage is not None


def in_other_blocks(stage):
    return stage is None


@pytest.fixture
def same_decisions(autocast_where, make_model, images):
    """Give a function: the share of decisions that autocast in some blocks leaves as they are."""

    def same_decisions(method, wanted, stages_of_models):
        same = []
        for rate in RATES:
            for blocks in stages_of_models:
                model, traces = make_model(method, rate, blocks), []
                for where in (in_no_block, wanted):
                    autocast_where(where)
                    with torch.no_grad():
                        traces.append(model.forward_with_trace(images, weights=True)[1])
                same += alike(*traces, reduction.METHODS[method].family)
        return share(same, method)

    return same_decisions


@pytest.mark.parametrize("method", METHODS)
def test_decisions_from_the_same_tokens(same_decisions, method):
    each_alone = [(block,) for block in BLOCKS]
    found = same_decisions(method, in_blocks_that_reduce, each_alone)
    assert found >= FROM_THE_SAME_TOKENS


@pytest.mark.parametrize("method", METHODS)
def test_decisions_of_a_whole_model(make_model, autocast, images, method):
    same = []
    for rate in RATES:
        model = make_model(method, rate, BLOCKS)
        traces = []
        for enabled in (False, True):
            with torch.no_grad(), autocast(enabled):
                traces.append(model.forward_with_trace(images, weights=True)[1])
        same += alike(*traces, reduction.METHODS[method].family)
    assert share(same, method) >= WHOLE_MODEL[method]


@pytest.mark.parametrize("precision", BFLOAT16, indirect=True)
@pytest.mark.parametrize("method", ["ats", "tome", "atc", "dpcknn"])
def test_what_whole_models_lack_is_the_hosts_doing(same_decisions, method):
    """Where all that decides is in float32, the features that the other blocks made differ."""
    assert same_decisions(method, in_other_blocks, [BLOCKS]) < 0.99
