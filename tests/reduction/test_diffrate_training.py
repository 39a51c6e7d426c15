"""DiffRate's learned numbers of tokens against arrays made by running its authors' code."""

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

import reduction
from reduction.cost import HostCost

LABELS = torch.arange(4)
GIGA_TARGET, WEIGHT = 0.05, 5
EMBEDDED_CLS = 16 * 16 * 3 * 48
"""The authors count the embedding of a patch for CLS, too."""


@pytest.fixture(scope="module")
def arrays(golden_folder):
    prefix = "diffrate/train/"
    with np.load(golden_folder / "newer_training_A.npz") as stored:
        names = [name for name in stored.files if name.startswith(prefix)]
        return {name.removeprefix(prefix): torch.from_numpy(stored[name]) for name in names}


def learning_model(host, arrays):
    model = reduction.reduce(copy.deepcopy(host).double(), "diffrate", learned=True)
    for stage in model.stages:
        for count, kind in ((stage.pruned, "prune"), (stage.merged, "merge")):
            values = arrays[f"probability/block{stage.spec.block}.{kind}"]
            count.logits.data = values.to(count.logits)
    return model


@pytest.fixture(scope="module")
def trained(reference_host, reference_images, arrays):
    """A model after one backward pass, its logits, its trace and its cost."""
    model = learning_model(reference_host, arrays).train()
    logits, trace = model.forward_with_trace(reference_images.double())
    counts = {block: each.count for block, each in trace.learning.items()}
    macs = HostCost(model)(counts) + EMBEDDED_CLS
    loss = F.cross_entropy(logits, LABELS) + WEIGHT * (macs / 1e9 - GIGA_TARGET) ** 2
    loss.backward()
    return model, logits.detach(), loss.item(), macs.item()


def test_logits_loss_and_cost(trained, arrays):
    _, logits, loss, macs = trained
    torch.testing.assert_close(logits, arrays["logits_f64"], rtol=0, atol=1e-9)
    assert macs == pytest.approx(arrays["flops_f64"].item(), rel=1e-12)
    assert loss == pytest.approx(arrays["loss_f64"].item(), rel=1e-9)


def test_gradients_of_both_numbers(trained, arrays):
    model, *_ = trained
    for kind, name in (("prune", "pruned"), ("merge", "merged")):
        found = torch.stack([getattr(stage, name).logits.grad for stage in model.stages])
        expected = arrays[f"grad_{kind}_f64"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_numbers(trained, arrays):
    model, *_ = trained
    found = [[stage.pruned.number(), stage.merged.number()] for stage in model.stages]
    assert found == arrays["kept"][1:].tolist()


def test_masks_and_sizes(reference_host, reference_images, arrays):
    """After every block; the arrays have their tokens in the order of the block, CLS first."""
    model, seen = learning_model(reference_host, arrays).train(), []
    for block in model.blocks:
        block.register_forward_hook(
            lambda block, args, kwargs, out: seen.append(kwargs.get("step")), with_kwargs=True
        )
    model(reference_images.double())
    for index, step in enumerate(seen[1:], start=1):
        tokens = step.left
        live = tokens.with_prefix(tokens.policy).detach()
        assert torch.equal(live.to(torch.uint8), arrays["mask"][index]), index
        sizes = tokens.with_prefix(tokens.sizes).detach() * live
        torch.testing.assert_close(sizes, arrays["sizes_f64"][index], rtol=0, atol=1e-9)


def test_evaluation_reduces_by_the_numbers_learned(trained, reference_images, arrays):
    model = copy.deepcopy(trained[0]).eval()
    with torch.no_grad():
        _, trace = model.forward_with_trace(reference_images.double())
    left = arrays["kept"].amin(dim=1)[1:].cummin(dim=0).values.clamp(max=197) - 1
    assert [n[0].item() for n in trace.tokens.values()] == left.tolist()
    assert reduction.flops(model, trace.tokens).macs < reduction.flops(trained[0]).macs + 1
    with torch.no_grad():
        model.stages[0].pruned.logits[-1] = 200  # nearly all on the last candidate, 4
    assert model.stages[0].pruned.number() in (5, 6)


def test_without_values_the_cost_is_that_of_the_start():
    """A study's work is estimated from models on the meta device."""

    def cost():
        host = timm.create_model("vit_tiny_patch16_224", depth=2)
        return reduction.flops(reduction.reduce(host, "diffrate", reduction_loc=(1,), learned=True))

    with torch.device("meta"):
        estimated = cost()
    assert estimated == cost()


def test_it_takes_no_lists_beside():
    host = timm.create_model("vit_tiny_patch16_224", depth=4)
    with pytest.raises(ValueError, match="learned is True, but must be False"):
        reduction.reduce(host, "diffrate", reduction_loc=(1,), learned=True, prune=(5, 5, 5, 5))
