"""Hosts without a CLS token: tokens ranked by the attention they get from all others."""

import pytest
import torch

import reduction

METHODS = [method for method in reduction.METHODS if reduction.METHODS[method].needs_cls]


@pytest.fixture
def host(make_host):
    return make_host(class_token=False, global_pool="avg", reg_tokens=2)


def received(host, images, index):
    """Attention each patch gets in block `index` of the plain host, head by head and row by row."""
    x = host.norm_pre(host._pos_embed(host.patch_embed(images)))
    for block in host.blocks[:index]:
        x = block(x)
    attention, normed = host.blocks[index].attn, host.blocks[index].norm1(x)
    queries, keys, _ = attention.qkv(normed).chunk(3, dim=-1)
    heads = []
    for head in range(2):
        part = slice(16 * head, 16 * head + 16)
        logits = queries[..., part] @ keys[..., part].mT / 4
        heads.append(logits.softmax(dim=-1).mean(dim=1))
    return torch.stack(heads, dim=1)[..., 2:]


def test_all_that_need_cls_are_known():
    assert set(METHODS) == {"topk", "evit", "ats", "idlevit", "ppt", "diffrate"}


@pytest.mark.parametrize("method", METHODS)
def test_without_cls_the_error_says_what_to_do(host, small_images, method):
    with pytest.raises(
        ValueError,
        match=f"^host has no CLS token, but must have one for {method} unless score='received'$",
    ):
        reduction.reduce(host, method, reduction_loc=(1, 2))
    model = reduction.reduce(host, method, keep_rate=0.5, reduction_loc=(1, 2), score="received")
    logits, trace = model.forward_with_trace(small_images)
    assert logits.isfinite().all()
    assert trace.tokens[2].max() < 35


def test_a_score_that_is_not_known(host):
    for method in METHODS:
        with pytest.raises(ValueError, match="^score is 'all', but must be one of cls, received$"):
            reduction.reduce(host, method, reduction_loc=(1,), score="all")


def test_topk_keeps_what_gets_most(host, small_images):
    heads = received(host, small_images, 1)
    expected = heads.mean(dim=1).argsort(dim=1, descending=True)[:, :17]
    model = reduction.reduce(host, "topk", tokens=[17], reduction_loc=(1,), score="received")
    _, trace = model.forward_with_trace(small_images)
    assert torch.equal(trace.kept[1], expected)


def test_evit_fuses_the_others_by_what_they_get(host, small_images):
    heads = received(host, small_images, 3)
    scores = heads.mean(dim=1)
    model = reduction.reduce(host, "evit", tokens=[17], reduction_loc=(3,), score="received")
    fused = model._walk(small_images, None, None)
    attended = {}
    host.blocks[3].norm2.register_forward_hook(lambda _, args, out: attended.update(x=args[0]))
    host(small_images)
    others = scores.scatter(1, scores.argsort(dim=1, descending=True)[:, :17], 0.0)
    expected = (others[..., None] * attended["x"][:, 2:]).sum(dim=1)
    block = host.blocks[3]
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(fused.x[:, -1], expected, rtol=0, atol=1e-5)


def test_padding_asks_for_nothing(host):
    """Images that keep fewer tokens rank them as they do alone."""
    images = torch.randn(6, 3, 20, 28, generator=torch.Generator().manual_seed(1))
    for block in host.blocks:
        block.attn.qkv.weight.data *= 8  # so that images differ in how they attend
    model = reduction.reduce(host, "ats", keep_rate=0.8, reduction_loc=(1, 2, 3), score="received")
    together, trace = model.forward_with_trace(images)
    assert len(set(trace.tokens[1].tolist())) > 1
    for index in range(6):
        alone, own = model.forward_with_trace(images[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-5)
        kept = trace.kept[3][index]
        assert torch.equal(own.kept[3][0], kept[kept >= 0])
