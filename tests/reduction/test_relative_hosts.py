"""Hosts whose attention looks at displacements: BEiT and ViTs with relative positions."""

import pytest
import torch
from host_claims import (
    AFTER,
    DROP,
    assert_images_do_not_see_their_batch,
    assert_nothing_reduced_is_the_host,
    reduced,
)
from timm.layers import RelPosBias
from timm.models import Beit, VisionTransformer, VisionTransformerRelPos
from timm.models.vision_transformer import ResPostBlock
from timm.models.vision_transformer_relpos import ResPostRelPosBlock
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import reduction

HOSTS = {
    "BEiT": (Beit, {"use_rel_pos_bias": True, "init_values": 0.1, "qkv_bias": True}),
    "BEiT, shared": (Beit, {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True}),
    "BEiT, absolute": (Beit, {"global_pool": "token"}),
    "network": (VisionTransformerRelPos, {"class_token": True, "global_pool": "token"}),
    "tables": (VisionTransformerRelPos, {"rel_pos_type": "bias", "init_values": 0.1}),
    "shared": (VisionTransformerRelPos, {"rel_pos_type": "bias", "shared_rel_pos": True}),
    "norm after": (VisionTransformerRelPos, {"block_fn": ResPostRelPosBlock, "class_token": True}),
    "no relation, norm after": (VisionTransformer, {"block_fn": ResPostBlock}),
}


@pytest.fixture(params=HOSTS)
def host(request, make_host):
    model_class, kwargs = HOSTS[request.param]
    return make_host(model_class, **kwargs)


def test_nothing_reduced_is_the_host(host, small_images):
    assert_nothing_reduced_is_the_host(host, small_images)


def test_an_image_does_not_see_its_batch(host, small_images):
    assert_images_do_not_see_their_batch(host, small_images)


def embedded(host, images):
    """What comes into the first block, and what all blocks share."""
    x = host.patch_embed(images)
    if host.cls_token is not None:
        x = torch.cat((host.cls_token.expand(3, -1, -1), x), dim=1)
    if isinstance(host, Beit):
        x = x if host.pos_embed is None else x + host.pos_embed
        shared = 0.0 if host.rel_pos_bias is None else host.rel_pos_bias()
        return x, shared, "shared_rel_pos_bias"
    return x, host.shared_rel_pos.get_bias(), "shared_rel_pos"


@pytest.mark.parametrize("kind", ["BEiT", "BEiT, shared", "BEiT, absolute", "shared"])
@pytest.mark.parametrize("method", DROP)
def test_dropping_tokens_is_masking_them(make_host, small_images, kind, method):
    model_class, kwargs = HOSTS[kind]
    host = make_host(model_class, **kwargs)
    model = reduced(host, method, keep_rate=0.6)
    features = model.forward_features(small_images)
    _, trace = model.forward_with_trace(small_images)
    x, shared, name = embedded(host, small_images)
    prefix = host.num_prefix_tokens
    alive = torch.zeros(x.shape[:2])
    for index, block in enumerate(host.blocks):
        seen = alive
        if index in trace.kept:
            alive = torch.full_like(alive, -torch.inf)
            alive[:, :prefix] = 0.0
            for image, kept in enumerate(trace.kept[index]):
                alive[image, prefix + kept[kept >= 0]] = 0.0
        mask = (seen if method in AFTER else alive)[:, None, None]
        x = block(x, **{name: shared + mask})
    masked = host.norm(x)
    for image, kept in enumerate(trace.kept[2]):
        rows = torch.cat((torch.arange(prefix), prefix + kept[kept >= 0]))
        own = features[image, : len(rows)]
        torch.testing.assert_close(own, masked[image, rows], rtol=0, atol=1e-5)


def test_plain_attention_agrees_with_the_fused_one(host, small_images):
    model = reduced(host, "tome", keep_rate=0.6)
    expected = model(small_images)
    for block in model.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(model(small_images), expected, rtol=0, atol=1e-5)


def test_maps_training_and_the_way_back(host, small_images):
    model = reduced(host, "tome", keep_rate=0.6)
    assert torch.equal(reduction.unreduce(model)(small_images), host(small_images))
    maps = model.forward_intermediates(small_images, 1, intermediates_only=True)
    assert maps[0].shape == (3, 32, 5, 7)
    model.train().set_grad_checkpointing(True)
    model(small_images).square().sum().backward()
    assert host.blocks[3].attn.qkv.weight.grad.any()


def test_another_input_size(make_host):
    host = make_host(VisionTransformerRelPos, class_token=True)
    model = reduced(host, "topk", keep_rate=0.5)
    model.set_input_size((32, 24))
    _, trace = model.forward_with_trace(torch.randn(1, 3, 32, 24))
    assert [int(count) for count in trace.tokens.values()] == [24, 12]


@pytest.mark.parametrize("method", ["topk", "tome", "ats"])
def test_flops_are_those_torch_counts(make_host, small_images, method):
    host = make_host(Beit, use_rel_pos_bias=True, qkv_bias=True)
    model = reduced(host, method, keep_rate=0.6)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        _, trace = model.forward_with_trace(small_images[:1])
    assert reduction.flops(model, trace.tokens).flops == counter.get_total_flops()


def test_a_merged_token_counts_as_the_nearest_patch(make_host, small_images):
    """Biases after a merge are those of the patches that the groups' mean places round to."""
    host = make_host(VisionTransformerRelPos, rel_pos_type="bias")
    assert isinstance(host.blocks[2].attn.rel_pos, RelPosBias)
    model = reduced(host, "tome", keep_rate=0.6, reduction_loc=(1,))
    tokens = model._walk(small_images, None, None)
    bias = tokens.relative.at(host.blocks[2].attn, tokens.coordinates)
    table = host.blocks[2].attn.rel_pos.get_bias()[0]
    assert bias.shape == (3, 2, 21, 21)
    for image, places in enumerate(tokens.coordinates.round().long().tolist()):
        patches = [row * 7 + column for row, column in places]
        for one in (0, 5, 20):
            for other in (3, 20):
                expected = table[:, patches[one], patches[other]]
                assert torch.equal(bias[image, :, one, other], expected)
