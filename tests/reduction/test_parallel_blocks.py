"""Hosts whose blocks have attention and MLP side by side, or several of each."""

from functools import partial

import pytest
import torch
from host_claims import (
    AFTER,
    DROP,
    assert_images_do_not_see_their_batch,
    assert_nothing_reduced_is_the_host,
    reduced,
)
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import reduction

HOSTS = {
    "plain": {},
    "one output layer": {"block_fn": partial(ParallelScalingBlock, fuse_out_proj=True)},
    "several of each": {"block_fn": ParallelThingsBlock, "init_values": 0.1},
    "a bias of the MLP": {"qkv_bias": False, "qk_norm": True, "init_values": 0.1},
}


@pytest.fixture(params=HOSTS)
def host(request, make_host):
    torch.manual_seed(0)
    host = make_host(**{"block_fn": ParallelScalingBlock} | HOSTS[request.param])
    for block in host.blocks:
        for name, parameter in block.named_parameters():
            if "bias" in name:  # zero in a new model
                torch.nn.init.normal_(parameter, std=0.1)
    return host


def test_nothing_reduced_is_the_host(host, small_images):
    assert_nothing_reduced_is_the_host(host, small_images)


def test_an_image_does_not_see_its_batch(host, small_images):
    assert_images_do_not_see_their_batch(host, small_images)


@pytest.mark.parametrize("method", DROP)
def test_dropping_tokens_is_masking_them(host, small_images, method):
    model = reduced(host, method, keep_rate=0.6)
    features = model.forward_features(small_images)
    _, trace = model.forward_with_trace(small_images)
    x = host._pos_embed(host.patch_embed(small_images))
    prefix = host.num_prefix_tokens
    alive = torch.zeros(x.shape[:2])
    for index, block in enumerate(host.blocks):
        seen = alive
        if index in trace.kept:
            alive = torch.full_like(alive, -torch.inf)
            alive[:, :prefix] = 0.0
            for image, kept in enumerate(trace.kept[index]):
                alive[image, prefix + kept[kept >= 0]] = 0.0
        x = block(x, attn_mask=(seen if method in AFTER else alive)[:, None, None])
    masked = host.norm(x)
    for image, kept in enumerate(trace.kept[2]):
        rows = torch.cat((torch.arange(prefix), prefix + kept[kept >= 0]))
        own = features[image, : len(rows)]
        torch.testing.assert_close(own, masked[image, rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["topk", "tome", "ats", "random"])
def test_flops_are_those_torch_counts(host, small_images, method):
    model = reduced(host, method, keep_rate=0.6)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        _, trace = model.forward_with_trace(small_images[:1])
    assert reduction.flops(model, trace.tokens).flops == counter.get_total_flops()


def test_training_reaches_all_parameters(host, small_images):
    model = reduced(host, "tome", keep_rate=0.6).train()
    model.set_grad_checkpointing(True)
    model(small_images).square().sum().backward()
    assert all(parameter.grad.any() for parameter in host.blocks.parameters())
    assert torch.equal(reduction.unreduce(model).eval()(small_images), host(small_images))
