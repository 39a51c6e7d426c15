"""Hosts that rotate queries and keys by places: DINOv3, EVA-02, Perception Encoder and others."""

import copy
import pickle

import pytest
import timm
import torch
from host_claims import (
    AFTER,
    DROP,
    assert_images_do_not_see_their_batch,
    assert_nothing_reduced_is_the_host,
    reduced,
)
from timm.layers import apply_rot_embed_cat
from timm.models import Eva
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import reduction
from reduction.hosts import grid_places
from reduction.rope import Rope

SMALL = {"img_size": (20, 28), "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
NAMES = {
    "DINOv3": "vit_small_patch16_dinov3",
    "EVA-02": "eva02_tiny_patch14_224",
    "PE": "vit_pe_core_tiny_patch16_384",
    "mixed": "vit_small_patch16_rope_mixed_224",
    "axial": "vit_small_patch16_rope_224",
}
OTHERS = {
    "no rotation": {},
    "norm after": {"use_post_norm": True, "use_rot_pos_emb": True},
    "multimodal": {"use_rot_pos_emb": True, "rope_type": "mrope"},
    "fewer keys": {
        "attn_type": "rope",
        "qkv_fused": False,
        "num_kv_heads": 1,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
    },
    "bias apart, average": {"use_rot_pos_emb": True, "class_token": False, "global_pool": "avg"},
}


def build(kind, make_host):
    if kind in OTHERS:
        return make_host(Eva, **OTHERS[kind])
    return make_host(lambda **kwargs: timm.create_model(NAMES[kind], **kwargs))


@pytest.fixture(params=[*NAMES, *OTHERS])
def host(request, make_host):
    return build(request.param, make_host)


@pytest.fixture(params=[*NAMES])
def named_host(request, make_host):
    return build(request.param, make_host)


def test_nothing_reduced_is_the_host(host, small_images):
    assert_nothing_reduced_is_the_host(host, small_images)


def test_an_image_does_not_see_its_batch(host, small_images):
    assert_images_do_not_see_their_batch(host, small_images)


def walk_masked(host, images, trace, method):
    """Features of the host's own blocks, in which tokens that the trace lacks are masked keys."""
    x, rope = host._pos_embed(host.patch_embed(images))
    x, prefix = host.norm_pre(x), host.num_prefix_tokens
    alive = torch.ones(x.shape[:2], dtype=torch.bool)
    for index, block in enumerate(host.blocks):
        seen = alive
        if index in trace.kept:
            alive = torch.zeros_like(alive)
            alive[:, :prefix] = True
            for image, kept in enumerate(trace.kept[index]):
                alive[image, prefix + kept[kept >= 0]] = True
        mask = (seen if method in AFTER else alive)[:, None, None]
        x = block(x, rope=rope[index] if host.rope_mixed else rope, attn_mask=mask)
    return host.norm(x)


@pytest.mark.parametrize("method", DROP)
def test_dropping_tokens_is_masking_them(named_host, small_images, method):
    model = reduced(named_host, method, keep_rate=0.6)
    features = model.forward_features(small_images)
    _, trace = model.forward_with_trace(small_images)
    masked = walk_masked(named_host, small_images, trace, method)
    prefix, kept = named_host.num_prefix_tokens, trace.kept[2]
    assert 0 < kept.shape[1] < 35
    for image in range(3):
        live = kept[image] >= 0
        rows = torch.cat((torch.arange(prefix), prefix + kept[image][live]))
        own = features[image, : prefix + int(live.sum())]
        torch.testing.assert_close(own, masked[image, rows], rtol=0, atol=1e-5)


def test_resting_tokens_are_masked_and_stay(named_host, small_images):
    model = reduced(named_host, "idlevit", keep_rate=0.6)
    _, trace = model.forward_with_trace(small_images)
    x, rope = named_host._pos_embed(named_host.patch_embed(small_images))
    x, prefix = named_host.norm_pre(x), named_host.num_prefix_tokens
    for index, block in enumerate(named_host.blocks):
        active = torch.ones(x.shape[:2], dtype=torch.bool)
        if index in trace.kept:
            active[:, prefix:] = torch.zeros(3, 35).scatter(1, trace.kept[index], 1.0) > 0
        angles = rope[index] if named_host.rope_mixed else rope
        x = torch.where(
            active[..., None], block(x, rope=angles, attn_mask=active[:, None, None]), x
        )
    expected = named_host.norm(x)
    torch.testing.assert_close(model.forward_features(small_images), expected, rtol=0, atol=1e-5)


def last_places(model, images):
    """Coordinates of the tokens that are left."""
    return model._walk(images, None, None).coordinates


@pytest.mark.parametrize("method", ["tome", "atc", "pitome", "tofu", "mctf", "dpcknn", "dtem"])
def test_a_merged_token_is_at_the_mean_place_of_its_patches(named_host, small_images, method):
    model = reduced(named_host, method, keep_rate=0.6, reduction_loc=(3,))
    _, trace = model.forward_with_trace(small_images)
    groups, rows = trace.groups[3], grid_places((5, 7), torch.device("cpu"))
    places = last_places(model, small_images)
    for image in range(3):
        for group in range(places.shape[1]):
            members = rows[groups[image] == group]
            torch.testing.assert_close(places[image, group], members.mean(dim=0))


@pytest.mark.parametrize("blocks", [(1,), (1, 2)])
def test_a_merged_token_of_several_stages_weighs_by_size(named_host, small_images, blocks):
    model = reduced(named_host, "tome", keep_rate=0.6, reduction_loc=blocks)
    _, trace = model.forward_with_trace(small_images)
    rows = grid_places((5, 7), torch.device("cpu"))
    places = last_places(model, small_images)
    for image in range(3):
        for group in range(places.shape[1]):
            members = rows[trace.groups[blocks[-1]][image] == group]
            torch.testing.assert_close(places[image, group], members.mean(dim=0))


@pytest.mark.parametrize("shape", [(5, 7), (1, 3)])
def test_angles_between_patches(named_host, shape):
    """On patches they are timm's; halfway between two of them the two half rotations add up."""
    rope = named_host.rope.eval()
    tables = rope.get_embed(shape) if named_host.dynamic_img_size else None
    if tables is None:
        named_host.set_input_size((4 * shape[0], 4 * shape[1]))
        tables = rope.get_embed()
    start = grid_places(shape, torch.device("cpu"))[None]
    own = Rope(module=rope, grid=shape, start=start, tables=tables)
    for block in range(4 if own.mixed else 1):
        expected = tables[block] if own.mixed else tables
        there = own.enter(block, start.clone()).table
        torch.testing.assert_close(there[0].squeeze(), expected, rtol=0, atol=1e-5)
        half = own.enter(block, (start[:, :1] + start[:, 1:2]) / 2).table
        half_rotation = getattr(named_host.blocks[0].attn, "rotate_half", False)
        x = torch.randn(16)
        twice = apply_rot_embed_cat(x, half[0], half_rotation)
        twice = apply_rot_embed_cat(twice, half[0], half_rotation)
        both = apply_rot_embed_cat(x, expected[..., :1, :], half_rotation)
        both = apply_rot_embed_cat(both, expected[..., 1:2, :], half_rotation)
        torch.testing.assert_close(twice.squeeze(), both.squeeze(), rtol=0, atol=1e-5)


def test_a_merge_of_equal_places_loses_nothing(named_host, small_images):
    """Two copies of a token at one place, counted twice, are the two of them."""
    x = torch.randn(1, 2 + named_host.num_prefix_tokens, 32)
    attention = named_host.blocks[0].attn
    start = grid_places((5, 7), x.device)[None]
    tables = named_host._pos_embed(named_host.patch_embed(small_images))[1]
    rope = Rope(module=named_host.rope, grid=(5, 7), start=start, tables=tables)
    at = rope.enter(0, torch.tensor([[[1.5, 2.25], [1.5, 2.25]]])).table
    x[:, -1] = x[:, -2]
    bias = torch.zeros(1, 1, 1, x.shape[1] - 1)
    bias[..., -1] = torch.tensor(2.0).log()
    one = attention(x[:, :-1], rope=at[..., :1, :], attn_mask=bias)
    torch.testing.assert_close(one, attention(x, rope=at)[:, :-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["topk", "evit", "tome", "mctf", "cropr", "dpcknn"])
def test_flops_are_those_torch_counts(named_host, small_images, method):
    model = reduced(named_host, method, keep_rate=0.6)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(small_images[:1])
    assert reduction.flops(model).flops == counter.get_total_flops()


@pytest.mark.parametrize("method", ["topk", "tome", "idlevit", "mctf"])
def test_gradients_with_and_without_checkpointing(make_host, small_images, method):
    gradients = []
    for checkpointing in (False, True):
        model = reduced(build("mixed", make_host), method, keep_rate=0.6).train()
        model.set_grad_checkpointing(checkpointing)
        model(small_images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(gradient is not None and gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(*gradients)


def test_fused_and_plain_attention_agree(named_host, small_images):
    model = reduced(named_host, "tome", keep_rate=0.6)
    expected = model(small_images)
    for block in model.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(model(small_images), expected, rtol=0, atol=1e-5)


def test_dropped_tokens_come_back_to_their_places(named_host, small_images):
    model = reduced(named_host, "cropr", keep_rate=0.6, llf=True)
    places = last_places(model, small_images)
    _, trace = model.forward_with_trace(small_images)
    rows = grid_places((5, 7), torch.device("cpu"))
    for image in range(3):
        assert torch.equal(places[image], rows[trace.kept[3][image]])


def test_copies_pickles_and_the_way_back(named_host, small_images):
    model = reduced(named_host, "tome", keep_rate=0.6)
    expected = model(small_images)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert torch.equal(twin(small_images), expected)
    assert torch.equal(reduction.unreduce(model)(small_images), named_host(small_images))


@pytest.mark.parametrize("kind", ["DINOv3", "mixed", "PE"])
def test_another_image_size(make_host, kind):
    model = reduced(build(kind, make_host), "tome", keep_rate=0.6)
    model.set_input_size((32, 24))
    host = reduction.unreduce(model)
    image = torch.randn(1, 3, 32, 24)
    assert [int(n) for n in model.forward_with_trace(image)[1].tokens.values()] == [28, 17]
    plain = reduced(host, "tome")
    torch.testing.assert_close(plain(image), host(image), rtol=0, atol=1e-5)


def test_refused(make_host):
    host = make_host(Eva, patch_drop_rate=0.5, use_rot_pos_emb=True)
    with pytest.raises(ValueError, match="^host has patch dropout, but must keep all patches to"):
        reduced(host, "topk")
    host = make_host(Eva, use_rot_pos_emb=True, rope_shift_coords=0.1)
    with pytest.raises(ValueError, match="^host moves its positions in training, but must leave"):
        reduced(host, "topk")
