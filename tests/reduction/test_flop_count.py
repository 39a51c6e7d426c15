"""FLOPs against torch's own counter, on hosts of every kind."""

import pytest
import torch
from timm.layers import Attention, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import reduction


def counted(model, image):
    counter = FlopCounterMode(display=False)
    # Unfused: the counter has no formula for the fused kernel of the CPU.
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(image)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"model_class": VisionTransformerDistilled},
        {"global_pool": "map"},
        {"global_pool": "prr"},
        {"global_pool": ""},
        {"global_pool": "avg", "class_token": False},
        {"reg_tokens": 3, "mlp_layer": SwiGLU},
        {"dynamic_img_size": True},
        {"num_classes": 0},
    ],
)
@pytest.mark.parametrize("method", [None, "tome", "linf"])
def test_hosts(make_host, small_images, kwargs, method):
    model = make_host(**kwargs)
    if method is not None:
        model = reduction.reduce(model, method, keep_rate=0.6, reduction_loc=(1, 2))
    assert reduction.flops(model).flops == counted(model, small_images[:1])


def test_gated_attention(make_host, small_images):
    host = make_host()
    host.blocks[1].attn = Attention(32, num_heads=2, gated=True)
    model = reduction.reduce(host.eval(), "ats", keep_rate=0.6, reduction_loc=(1,))
    _, trace = model.forward_with_trace(small_images[:1])
    expected = counted(model, small_images[:1])
    assert reduction.flops(model, trace.tokens).flops == expected


def test_deit_small_has_its_published_cost():
    """4.6 GMACs, Touvron et al. 2021, table 5."""
    model = reduction.create_model("deit", "deit_small_patch16_224")
    cost = reduction.flops(model)
    assert cost.macs == pytest.approx(4.6e9, rel=0.005)
    assert cost.flops == 2 * cost.macs


def test_real_counts_are_averaged_over_images(small_host, small_images):
    model = reduction.reduce(small_host, "ats", keep_rate=0.8, reduction_loc=(1, 2))
    _, trace = model.forward_with_trace(small_images)
    each = [
        reduction.flops(
            model, {block: counts[image].item() for block, counts in trace.tokens.items()}
        )
        for image in range(3)
    ]
    assert len({cost.macs for cost in each}) > 1
    together = reduction.flops(model, trace.tokens)
    assert together.macs == pytest.approx(sum(cost.macs for cost in each) / 3, rel=1e-12)


def test_counting_leaves_random_numbers_alone(make_host):
    model = make_host(drop_rate=0.5).train()
    state = torch.get_rng_state()
    reduction.flops(model)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_refused(make_host):
    model = reduction.reduce(make_host(), "topk", keep_rate=0.6, reduction_loc=(1, 2))
    with pytest.raises(ValueError, match=r"tokens has blocks \[1\], but must have \[1, 2\]"):
        reduction.flops(model, {1: 20})

    class Odd(Block):
        def forward(self, x, attn_mask=None):
            return x

    with pytest.raises(ValueError, match="block 0 is built with Odd, but must be one of timm's"):
        reduction.flops(make_host(block_fn=Odd))
