"""With nothing reduced, every kind of timm ViT gives what it gives without us."""

import contextlib
import copy

import pytest
import timm
import torch
from timm.layers import Attention, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block

import reduction


def gated(host):
    for block in host.blocks:
        torch.manual_seed(1)
        block.attn = Attention(32, num_heads=2, qkv_bias=True, gated=True)
    return host.eval()


def unfused(host):
    for block in host.blocks:
        block.attn.fused_attn = False
    return host


VARIANTS = {
    "plain": {},
    "distilled": {"model_class": VisionTransformerDistilled},
    "layer scale, no CLS embedding": {"init_values": 0.1, "no_embed_class": True},
    "qk norm": {"qk_norm": True},
    "scale norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "no qkv bias, SwiGLU": {"qkv_bias": False, "mlp_layer": SwiGLU},
    "registers": {"reg_tokens": 4, "no_embed_class": True},
    "norm before": {"pre_norm": True},
    "no position embedding": {"pos_embed": "none"},
    "avg": {"global_pool": "avg"},
    "avg, no fc norm": {"global_pool": "avg", "fc_norm": False},
    "avg with prefix": {"global_pool": "avg", "pool_include_prefix": True},
    "avg without CLS": {"global_pool": "avg", "class_token": False},
    "avg, registers without CLS": {"global_pool": "avg", "class_token": False, "reg_tokens": 2},
    "avgmax": {"global_pool": "avgmax"},
    "max": {"global_pool": "max"},
    "map": {"global_pool": "map"},
    "prr": {"global_pool": "prr"},
    "no pooling": {"global_pool": ""},
    "fc norm on CLS": {"fc_norm": True},
    "no classes": {"num_classes": 0},
    "dynamic size": {"dynamic_img_size": True},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def host(request, make_host):
    return make_host(**request.param)


@pytest.mark.parametrize("method", ["deit", "tome", "linf"])
def test_nothing_reduced_is_the_host(host, small_images, method):
    model = reduction.reduce(host, method, reduction_loc=(0, 2, 3))
    torch.testing.assert_close(model(small_images), host(small_images), rtol=0, atol=1e-5)


def test_a_method_that_needs_cls(host, small_images):
    if not host.has_class_token:
        with pytest.raises(
            ValueError, match=r"no CLS token, but must have one for topk unless score='received'$"
        ):
            reduction.reduce(host, "topk", reduction_loc=(1,))
        return
    model = reduction.reduce(host, "topk", reduction_loc=(0, 2, 3))
    torch.testing.assert_close(model(small_images), host(small_images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", [gated, unfused])
@pytest.mark.parametrize("method", ["topk", "tome"])
def test_attention_variants(make_host, small_images, change, method):
    host = change(make_host(qk_norm=True))
    model = reduction.reduce(host, method, reduction_loc=(0, 2, 3))
    torch.testing.assert_close(model(small_images), host(small_images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["tome", "ats", "evit"])
@pytest.mark.parametrize("kwargs", [{}, {"scale_attn_norm": True, "init_values": 0.1}])
def test_fused_and_plain_attention_agree(make_host, small_images, method, kwargs):
    model = reduction.reduce(make_host(**kwargs), method, keep_rate=0.5, reduction_loc=(0, 1, 2))
    plain = unfused(copy.deepcopy(model))
    torch.testing.assert_close(plain(small_images), model(small_images), rtol=0, atol=1e-5)


def test_gate_follows_the_chosen_queries(make_host, small_images):
    """Query rows chosen in a gated block equal the same rows of the whole block's output."""
    host = gated(make_host(depth=1))
    model = reduction.reduce(host, "ats", keep_rate=0.5, reduction_loc=(0,))
    _, trace = model.forward_with_trace(small_images[:1])
    rows = torch.cat((torch.zeros(1, dtype=torch.int64), trace.kept[0][0] + 1))
    expected = host.forward_features(small_images[:1])[:, rows]
    features = model.forward_features(small_images[:1])
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_dropout_and_stochastic_depth_are_timms(make_host, small_images):
    rates = {"drop_path_rate": 0.5, "attn_drop_rate": 0.2, "proj_drop_rate": 0.2, "drop_rate": 0.2}
    host = make_host(**rates, pos_drop_rate=0.2).train()
    model = reduction.reduce(host, "topk", reduction_loc=(0, 1, 2, 3))
    outputs = []
    for network in (host, model):
        torch.manual_seed(5)
        outputs.append(network(small_images))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)


def test_patch_dropout(make_host, small_images):
    host = make_host(patch_drop_rate=0.5).train()
    model = reduction.reduce(host, "topk", keep_rate=0.5, reduction_loc=(1,))
    _, trace = model.forward_with_trace(small_images)
    assert trace.tokens[1].tolist() == [8, 8, 8]  # half of the 17 of 35 patches that came through


def test_gradient_checkpointing(make_host, small_images):
    gradients = []
    for checkpointing in (False, True):
        host = make_host()
        host.set_grad_checkpointing(checkpointing)
        model = reduction.reduce(host, "tome", keep_rate=0.5, reduction_loc=(1,)).train()
        model(small_images).square().sum().backward()
        gradients.append(host.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("method", ["topk", "evit", "ats", "tome", "dpcknn", "linf", "sit"])
def test_another_image_size_on_a_dynamic_host(make_host, method):
    host = make_host(dynamic_img_size=True)
    model = reduction.reduce(host, method, keep_rate=0.5, reduction_loc=(1, 2))
    _, trace = model.forward_with_trace(torch.randn(2, 3, 32, 24))  # 8 x 6 patches, not 5 x 7
    first, second = (counts.max() for counts in trace.tokens.values())
    assert second < first <= (17 if method == "sit" else 28)


@pytest.mark.parametrize("prefix", [False, True])
def test_average_pooling_counts_tokens_by_their_size(make_host, small_images, prefix):
    """Averaged after merging, features weigh as much as the patches they stand for."""
    host = make_host(global_pool="avg", pool_include_prefix=prefix, fc_norm=False)
    model = reduction.reduce(host, "tome", keep_rate=0.5, reduction_loc=(3,))
    features = model.forward_features(small_images)
    _, trace = model.forward_with_trace(small_images)
    members = features[:, 1:].gather(1, trace.groups[3][..., None].expand(-1, -1, 32))
    if prefix:
        members = torch.cat((features[:, :1], members), dim=1)
    expected = host.head(members.mean(dim=1))
    torch.testing.assert_close(model(small_images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["avg", "avgmax", "max", "map"])
def test_pooling_leaves_padding_out(make_host, pool):
    model = reduction.reduce(
        make_host(global_pool=pool), "ats", keep_rate=0.8, reduction_loc=(1, 2)
    )
    images = torch.randn(8, 3, 20, 28, generator=torch.Generator().manual_seed(1))
    together, trace = model.forward_with_trace(images)
    assert len(set(trace.tokens[2].tolist())) > 1
    for index in range(8):
        alone = model(images[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["avg", "avgmax", "max", "map"])
@pytest.mark.parametrize("method", ["tome", "ats", "dpcknn", "topk"])
def test_features_and_head_are_timms_two_halves(make_host, small_images, pool, method):
    model = reduction.reduce(
        make_host(global_pool=pool), method, keep_rate=0.5, reduction_loc=(1, 2)
    )
    apart = model.forward_head(model.forward_features(small_images))
    torch.testing.assert_close(apart, model(small_images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pool", ["avg", "avgmax", "max", "map"])
def test_pooling_after_a_merge_that_loses_nothing(make_host, pool):
    """Where only equal patches merge, they pool to what they did one by one."""
    host = make_host(global_pool=pool, pos_embed="none", class_token=False)
    patch = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    other = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    images = torch.cat((patch.repeat(1, 1, 5, 5), other.repeat(1, 1, 5, 2)), dim=3)
    model = reduction.reduce(host, "tome", tokens=[20], reduction_loc=(2,))
    torch.testing.assert_close(model(images), host(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["topk", "tome", "l2", "dynamicvit", "sit"])
def test_another_input_size(make_host, method):
    model = reduction.reduce(make_host(), method, keep_rate=0.5, reduction_loc=(1, 2))
    model.set_input_size(img_size=(32, 24))
    image = torch.randn(1, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    _, trace = model.forward_with_trace(image)
    assert reduction.flops(model) == reduction.flops(model, trace.tokens)
    expected = [17, 8] if method == "sit" else [24, 12]
    if method != "l2":
        assert [int(count) for count in trace.tokens.values()] == expected


def test_pooling_changed_after_reduction(make_host, small_images):
    model = reduction.reduce(make_host(), "ats", keep_rate=0.8, reduction_loc=(1, 2))
    model.reset_classifier(7, "max")
    together = model(small_images)
    for index in range(3):
        alone = model(small_images[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-5)


def test_other_blocks_are_run_but_not_opened(make_host, small_images):
    class OddBlock(Block):
        def forward(self, x, attn_mask=None):
            return super().forward(x, attn_mask) + 1

    host = make_host(block_fn=OddBlock)
    model = reduction.reduce(host, "linf", keep_rate=0.5, reduction_loc=(1,))
    assert model(small_images).isfinite().all()
    message = "block 1 is built with OddBlock, but must be one of timm's Block, .* for topk; "
    with pytest.raises(ValueError, match=f"^{message}") as error:
        reduction.reduce(host, "topk", reduction_loc=(1,))
    named = str(error.value).partition("; ")[2].removesuffix(" do not look into blocks").split(", ")
    assert named == [method for method in reduction.METHODS if takes(host, method)]


def takes(host, method):
    with contextlib.suppress(ValueError):
        return bool(reduction.reduce(host, method, reduction_loc=(1,)))
    return False


def test_a_host_that_pads_needs_a_head_that_can_leave_padding_out(make_host):
    with pytest.raises(ValueError, match="has global_pool='prr', but must have another for ats"):
        reduction.reduce(make_host(global_pool="prr"), "ats", reduction_loc=(1,))


def test_a_timm_model_by_name():
    model = reduction.create_model(
        "dpcknn",
        "vit_tiny_patch16_224",
        keep_rate=[0.5, 0.2],
        reduction_loc=(0, 1),
        num_classes=7,
        equal_weight=True,
        img_size=64,
        depth=2,
    )
    assert isinstance(model, timm.models.VisionTransformer)
    assert model.stages[0].score is None
    logits, trace = model.eval().forward_with_trace(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 7)
    assert [count.item() for count in trace.tokens.values()] == [8, 3]
