"""Feature maps of reduced models on the grid of patches, and the rest of timm's contract."""

import pytest
import torch
from host_claims import LEAVE_AS_IT_IS
from timm.models import Eva

import reduction


def reduced(host, method, **changes):
    torch.manual_seed(1)
    return reduction.reduce(host, method, **{"keep_rate": 0.5, "reduction_loc": (1, 2)} | changes)


@pytest.mark.parametrize("method", LEAVE_AS_IT_IS)
def test_with_nothing_reduced_maps_are_the_hosts(make_host, small_images, method):
    host = make_host(reg_tokens=1)
    model = reduced(host, method, keep_rate=1.0)
    options = {"return_prefix_tokens": True, "norm": True}
    final, maps = model.forward_intermediates(small_images, **options)
    expected, host_maps = host.forward_intermediates(small_images, **options)
    torch.testing.assert_close(final, expected, rtol=0, atol=1e-5)
    assert len(maps) == len(host_maps) == 4
    for own, theirs in zip(maps, host_maps, strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", reduction.METHODS)
def test_every_method_fills_the_grid(small_host, small_images, method):
    model = reduced(small_host, method)
    final, maps = model.forward_intermediates(small_images)
    assert torch.equal(final, model.forward_features(small_images))
    assert [x.shape for x in maps] == [(3, 32, 5, 7)] * 4
    assert all(x.isfinite().all() for x in maps)
    assert all(x.abs().sum(dim=1).all() for x in maps)


def test_arguments_are_timms(small_host, small_images):
    model = reduced(small_host, "topk")
    maps = model.forward_intermediates(small_images, intermediates_only=True)
    assert len(maps) == 4
    final, two = model.forward_intermediates(small_images, indices=[0, 2])
    torch.testing.assert_close(two, [maps[0], maps[2]])
    early, two = model.forward_intermediates(
        small_images, [0, 2], stop_early=True, output_fmt="NLC"
    )
    torch.testing.assert_close(two[1].mT.unflatten(2, (5, 7)), maps[2])
    assert not torch.equal(early, final)
    named = model.forward_intermediates(
        small_images, 1, return_prefix_tokens=True, output_dict=True, intermediates_only=True
    )
    torch.testing.assert_close(named["image_intermediates"], maps[3:])
    (prefix,) = named["image_intermediates_prefix"]
    torch.testing.assert_close(model.norm(prefix), final[:, :1])
    assert "image_features" not in named
    with pytest.raises(ValueError, match="^dropped is 'none', but must be one of last, zero$"):
        model.forward_intermediates(small_images, dropped="none")
    with pytest.raises(ValueError, match="^output_fmt is 'NHWC', but must be one of NCHW, NLC$"):
        model.forward_intermediates(small_images, output_fmt="NHWC")


@pytest.mark.parametrize("dropped", ["last", "zero"])
def test_a_dropped_patch_keeps_the_value_it_had(small_host, small_images, dropped):
    """Top-K drops after block 1's attention: what the MLP's norm would have seen."""
    seen = {}
    norm = small_host.blocks[1].norm2
    hook = norm.register_forward_hook(lambda _, args, out: seen.update(x=args[0]))
    small_host(small_images)
    hook.remove()
    model = reduced(small_host, "topk", reduction_loc=(1,))
    maps = model.forward_intermediates(small_images, output_fmt="NLC", dropped=dropped)[1]
    _, trace = model.forward_with_trace(small_images)
    for image in range(3):
        gone = [patch for patch in range(35) if patch not in trace.kept[1][image].tolist()]
        assert len(gone) == 18
        value = seen["x"][image, 1:][gone] * (dropped == "last")
        for x in maps[1:]:
            torch.testing.assert_close(x[image, gone], value)


def test_a_merged_token_stands_at_all_patches_of_its_group(small_host, small_images):
    model = reduced(small_host, "tome")
    final, maps = model.forward_intermediates(small_images, norm=True, output_fmt="NLC")
    _, trace = model.forward_with_trace(small_images)
    for image in range(3):
        for patch in range(35):
            token = final[image, 1 + trace.groups[2][image, patch]]
            torch.testing.assert_close(maps[3][image, patch], token)
    torch.testing.assert_close(reduction.unmerge(final[:, 1:], trace), maps[3])


@pytest.mark.parametrize("method", ["topk", "ats", "evit", "random"])
def test_unmerge_puts_kept_tokens_back(small_host, small_images, method):
    model = reduced(small_host, method)
    features = model.forward_features(small_images)[:, 1:]
    _, trace = model.forward_with_trace(small_images)
    expected = torch.zeros(3, 35, 32)
    for image, kept in enumerate(trace.kept[2].tolist()):
        for row, patch in enumerate(kept):
            if patch >= 0:
                expected[image, patch] = features[image, row]
    assert torch.equal(reduction.unmerge(features, trace), expected)


def test_unmerge_of_what_does_not_fit(small_host, small_images):
    model = reduced(small_host, "topk")
    _, trace = model.forward_with_trace(small_images)
    with pytest.raises(ValueError, match="^block is 3, but must be one of 1, 2$"):
        reduction.unmerge(torch.zeros(3, 8, 32), trace, block=3)
    with pytest.raises(ValueError, match="^x has 9 tokens, but must have the 8 left$"):
        reduction.unmerge(torch.zeros(3, 9, 32), trace)


def test_gradients_flow_through_maps(small_host, small_images):
    model = reduced(small_host, "topk").train()
    maps = model.forward_intermediates(small_images, 1, intermediates_only=True)
    maps[0].square().sum().backward()
    for block in small_host.blocks:
        assert block.attn.qkv.weight.grad.any()


@pytest.mark.parametrize(
    ("method", "names"),
    [("topk", []), ("patchmerger", ["queries"]), ("sinkhorn", ["centers"]), ("cropr", ["query"])],
)
def test_no_weight_decay_on_centres_and_queries(small_host, method, names):
    model = reduced(small_host, method)
    expected = {f"stages.{index}.{name}" for index in (0, 1) for name in names}
    assert model.no_weight_decay() == small_host.no_weight_decay() | expected
    assert expected <= {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("model_class", [None, Eva])
def test_prune_intermediate_layers(make_host, small_images, model_class):
    host = make_host() if model_class is None else make_host(Eva, use_rot_pos_emb=True)
    model = reduced(host, "tome")
    expected = model.forward_intermediates(small_images, [0, 1], intermediates_only=True)
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    assert len(model.blocks) == 2
    assert len(host.blocks) == 4
    assert [stage.spec.block for stage in model.stages] == [1]
    maps = model.forward_intermediates(small_images, [0, 1], intermediates_only=True)
    torch.testing.assert_close(maps, expected)
    assert model(small_images).shape[::2] == (3, 32)
    model.prune_intermediate_layers([0])
    assert not len(model.stages)
    assert model.forward_features(small_images).shape == (3, 36, 32)
    with pytest.raises(ValueError, match="^model has no stages left, but must have one"):
        reduction.set_schedule(model, r=1)


def test_maps_of_a_host_with_rotations(make_host, small_images):
    model = reduced(make_host(Eva, use_rot_pos_emb=True), "tome")
    final, maps = model.forward_intermediates(small_images, norm=True, output_fmt="NLC")
    _, trace = model.forward_with_trace(small_images)
    torch.testing.assert_close(reduction.unmerge(final[:, 1:], trace), maps[3])
