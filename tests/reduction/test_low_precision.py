"""Decisions under autocast against those in float32, on the reference images."""

import pytest
import torch
from decisions import (
    BLOCKS,
    FROM_THE_SAME_TOKENS,
    METHODS,
    RATES,
    WHOLE_MODEL,
    alike,
    method_model,
)

import reduction
from reduction.model import ReducedVisionTransformer

PRECISIONS = [("cpu", torch.bfloat16)]
if torch.cuda.is_available():
    PRECISIONS += [("cuda", torch.bfloat16), ("cuda", torch.float16)]

BFLOAT16 = [pair for pair in PRECISIONS if pair[1] is torch.bfloat16]


@pytest.fixture(params=PRECISIONS, ids=lambda pair: f"{pair[0]}-{str(pair[1])[6:]}")
def precision(request):
    return request.param


@pytest.fixture
def autocast(precision):
    """Give a function that returns a context in this precision, or, if told so, in none."""
    return lambda enabled: torch.autocast(*precision, enabled=enabled)


def share(same, method):
    """The share of equal decisions; `pytest -rP` shows it."""
    print(f"{method}: {sum(same) / len(same):.3f} of {len(same)} decisions are the same")  # noqa: T201
    return sum(same) / len(same)


@pytest.fixture
def make_model(precision, reference_host, reference_extras):
    def make(method, rate, blocks):
        return method_model(method, rate, blocks, reference_host, reference_extras).to(precision[0])

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
