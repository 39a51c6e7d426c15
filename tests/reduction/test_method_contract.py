"""What every method promises, on a small host of 5 x 7 patches; a method enters with one line."""

import copy
import pickle
from dataclasses import replace
from typing import NamedTuple

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import reduction
from reduction.plan import NOTHING, apply
from reduction.stage import INNER_HOOKS

BLOCKS = (1, 2)
RATE = 0.6
HOOKS = ("before_block", *INNER_HOOKS)


class Entry(NamedTuple):
    method: str
    options: dict = {}  # noqa: RUF012
    plain_at_rate_1: bool = True
    """Keeping every token leaves the host as it is."""
    sized: bool = False
    """Counts how many original patches each token stands for."""
    conserved: bool = True
    """Sizes, and sums weighted by them, stay the same."""


ENTRIES = [
    Entry("deit"),
    Entry("topk"),
    Entry("topk", {"score": "received"}),
    Entry("evit"),
    Entry("evit", {"score": "received"}),
    Entry("ats", plain_at_rate_1=False),
    Entry("ats", {"score": "received"}, plain_at_rate_1=False),
    Entry("ats", {"pad": "budget"}, plain_at_rate_1=False),
    Entry("dynamicvit"),
    Entry("gtp", plain_at_rate_1=False, sized=True, conserved=False),
    Entry("gtp", {"graph": "semantic", "scales": False, "sparsity": 1.0}),
    Entry("gtp", {"graph": "none", "selection": "cls_mean", "sparsity": 1.0}),
    Entry("hatp"),
    Entry("cropr"),
    Entry("cropr", {"llf": True, "queries": 2}),
    Entry("idlevit"),
    Entry("idlevit", {"score": "received"}),
    Entry("random"),
    Entry("l1"),
    Entry("l2"),
    Entry("linf"),
    Entry("l2", {"schedule": "linear"}, plain_at_rate_1=False),
    Entry("tome", sized=True),
    Entry("tome", {"proportional": False}, sized=True),
    Entry("atc", sized=True),
    Entry("atc", {"linkage": "single", "proportional": False}, sized=True),
    Entry("pitome", sized=True),
    Entry("pitome", {"first": "protect", "proportional": True}, sized=True),
    Entry("tofu"),
    Entry("ppt", sized=True, conserved=False),
    Entry("ppt", {"threshold": 1.0}, sized=True),
    Entry("ppt", {"score": "received"}, sized=True, conserved=False),
    Entry("dtem", sized=True),
    Entry("mctf", sized=True, conserved=False),
    Entry("mctf", {"pool": "size", "two_way": False}, sized=True),
    Entry("mctf", {"ahead": 0, "ts": 0}, sized=True, conserved=False),
    Entry("mctf", {"ahead": 2, "tz": 0}, sized=True, conserved=False),
    Entry("diffrate", sized=True, conserved=False),
    Entry("diffrate", {"score": "received"}, sized=True, conserved=False),
    Entry("kmedoids"),
    Entry("kmedoids", {"cost": "within", "iters": 1}),
    Entry("kmedoids", {"equal_weight": True}),
    Entry("dpcknn"),
    Entry("dpcknn", {"equal_weight": True}),
    Entry("sit", plain_at_rate_1=False),
    Entry("patchmerger", plain_at_rate_1=False),
    Entry("patchmerger", {"scaled": True}, plain_at_rate_1=False),
    Entry("sinkhorn", plain_at_rate_1=False),
]


def entry_id(entry):
    return "-".join([entry.method, *(f"{key}={value}" for key, value in entry.options.items())])


def build(host, entry, keep_rate=RATE):
    torch.manual_seed(1)
    return reduction.reduce(
        host, entry.method, keep_rate=keep_rate, reduction_loc=BLOCKS, **entry.options
    )


def squares(logits, trace):
    """The sum of the squares of all that a loss is made of."""
    handed = [x for each in trace.learning.values() for x in vars(each).values() if x is not None]
    return sum(output.square().sum() for output in (logits, *handed))


def run_steps(model, images, monkeypatch):
    """Run the model and return (tokens before, tokens after) each step of a stage."""
    steps = []

    def watch(stage, hook):
        original = getattr(stage, hook)

        def watched(tokens, *rest):
            plan = original(tokens, *rest)
            if plan is not NOTHING:
                steps.append((tokens, apply(plan, replace(tokens, recorder=None), 0)))
            return plan

        monkeypatch.setattr(stage, hook, watched)

    for stage in model.stages:
        for hook in HOOKS:
            if stage.acts_at(hook):
                watch(stage, hook)
    model(images)
    return steps


def test_every_method_has_an_entry():
    assert {entry.method for entry in ENTRIES} == set(reduction.METHODS)


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
class TestMethod:
    @pytest.fixture
    def model(self, small_host, entry):
        return build(small_host, entry)

    def test_trace_belongs_to_the_forward_pass(self, model, small_images):
        logits, trace = model.forward_with_trace(small_images)
        assert torch.equal(logits, model(small_images))
        assert logits.shape == (3, 10)
        assert trace.stages == tuple(stage.spec.block for stage in model.stages)
        assert list(trace.cls) == sorted({*trace.stages, 3})
        assert not trace.weights

    def test_trace_holds_what_the_method_declares(self, model, small_images, entry):
        _, trace = model.forward_with_trace(small_images)
        patterns = reduction.METHODS[entry.method].patterns
        assert set(trace.kept) == set(trace.stages if "kept" in patterns else ())
        assert set(trace.groups) == set(trace.stages if "groups" in patterns else ())
        for kept, live in zip(trace.kept.values(), trace.tokens.values(), strict=False):
            for row, count in zip(kept.tolist(), live.tolist(), strict=True):
                patches = [index for index in row if index >= 0]
                assert len(set(patches)) == len(patches) <= count
                assert all(index < 35 for index in patches)
        for groups, live in zip(trace.groups.values(), trace.tokens.values(), strict=False):
            assert groups.shape == (3, 35)
            assert (groups < live[:, None]).all()

    def test_counts_are_those_the_stages_announce(self, model, small_images):
        _, trace = model.forward_with_trace(small_images)
        incoming = 35
        for stage in model.stages:
            incoming = stage.count(incoming)
            live = trace.tokens[stage.spec.block]
            assert (live <= incoming).all()
            assert stage.pads or (live == incoming).all()

    def test_keeping_all_tokens_changes_nothing(self, small_host, small_images, entry):
        model = build(small_host, entry, keep_rate=1.0)
        same = torch.allclose(model(small_images), small_host(small_images), atol=1e-5)
        assert same == entry.plain_at_rate_1

    def test_prefix_tokens_pass_untouched(self, make_host, small_images, entry, monkeypatch):
        model = build(make_host(reg_tokens=2), entry)
        steps = run_steps(model, small_images, monkeypatch)
        assert len(steps) == (0 if entry.method == "deit" else len(model.stages))
        for before, after in steps:
            assert before.num_prefix == 3
            assert torch.equal(before.prefix, after.prefix)

    def test_sizes_and_weighted_sums_are_conserved(self, model, small_images, entry, monkeypatch):
        for before, after in run_steps(model, small_images, monkeypatch):
            assert (after.sizes is not None) == entry.sized
            if entry.sized and entry.conserved:
                sizes = torch.ones(3, 35) if before.sizes is None else before.sizes
                total = (sizes[..., None] * before.patches).sum(dim=1)
                merged = (after.sizes[..., None] * after.patches).sum(dim=1)
                torch.testing.assert_close(merged, total)
                assert torch.equal(after.sizes.sum(dim=1), torch.full((3,), 35.0))

    def test_gradients_reach_every_parameter(self, model, small_images):
        logits, trace = model.train().forward_with_trace(small_images)
        squares(logits, trace).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name

    def test_an_image_does_not_see_its_batch(self, model, small_images):
        together, trace = model.forward_with_trace(small_images)
        for index in range(3):
            alone, own = model.forward_with_trace(
                small_images[index : index + 1], image_index=torch.tensor([index])
            )
            torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-5)
            for block in trace.kept:
                kept, expected = own.kept[block][0], trace.kept[block][index]
                assert torch.equal(kept[kept >= 0], expected[expected >= 0])
            for block in trace.groups:
                assert torch.equal(own.groups[block][0], trace.groups[block][index])

    def test_random_state_does_not_matter(self, model, small_images):
        torch.manual_seed(2)
        state = torch.get_rng_state()
        first = model(small_images)
        assert torch.equal(state, torch.get_rng_state())
        torch.manual_seed(3)
        assert torch.equal(first, model(small_images))

    def test_state_dict_has_the_hosts_names_and_the_stages(self, make_host, small_images, entry):
        host = make_host()
        model = build(host, entry)
        state = model.state_dict()
        extra = set(state) - set(host.state_dict())
        assert set(host.state_dict()) <= set(state)
        assert all(name.startswith("stages.") for name in extra)
        other = build(make_host(), entry)
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter)
        other.load_state_dict(state)
        assert torch.equal(other(small_images), model(small_images))

    def test_copies_and_pickles(self, model, small_images):
        expected = model(small_images)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(twin) is type(model)
            assert torch.equal(twin(small_images), expected)

    def test_host_stays_as_it_was(self, small_host, small_images, entry):
        expected, attributes = small_host(small_images), set(vars(small_host))
        kind, state = type(small_host), set(small_host.state_dict())
        model = build(small_host, entry)
        model(small_images)
        assert torch.equal(small_host(small_images), expected)
        assert type(small_host) is kind
        assert set(vars(small_host)) == attributes
        assert set(small_host.state_dict()) == state
        for block, own in zip(model.blocks, small_host.blocks, strict=True):
            assert type(own) is timm.models.vision_transformer.Block
            assert block.attn is own.attn

    def test_autocast_to_bfloat16(self, model, small_images):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, trace = model.train().forward_with_trace(small_images)
            squares(logits, trace).backward()
        assert logits.isfinite().all()
        assert set(trace.tokens) == set(trace.stages)
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_a_model_in_bfloat16(self, model, small_images):
        logits = copy.deepcopy(model).bfloat16()(small_images.bfloat16())
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()

    @pytest.mark.parametrize("keep_rate", [0.6, 1.0, (0.5, 0.5)])
    def test_flops_are_those_torch_counts(self, small_host, small_images, entry, keep_rate):
        model = build(small_host, entry, keep_rate)
        image = small_images[:1]
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            _, trace = model.forward_with_trace(image)
        counted = counter.get_total_flops()
        live, static = reduction.flops(model, trace.tokens).flops, reduction.flops(model).flops
        if entry.options.get("pad") == "budget":  # Padding is computed, too.
            assert live <= counted == static
        elif model.stages[0].pads:
            assert live == counted <= static
        else:
            assert live == counted == static
