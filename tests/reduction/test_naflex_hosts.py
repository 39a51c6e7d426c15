"""timm's `NaFlexVit` on images of one size, beside the hosts that it stands for."""

from functools import partial

import pytest
import timm
import torch
from host_claims import (
    assert_images_do_not_see_their_batch,
    assert_nothing_reduced_is_the_host,
    reduced,
)
from timm.models import NaFlexVit
from timm.models.naflexvit import checkpoint_filter_fn

import reduction

CLASSIC = {
    "ViT": "vit_tiny_patch16_224",
    "SigLIP": "vit_base_patch16_siglip_224",
    "DINOv3": "vit_small_patch16_dinov3",
    "mixed": "vit_small_patch16_rope_mixed_224",
}
"""Models that timm also builds as a `NaFlexVit`."""


@pytest.fixture(params=CLASSIC)
def pair(request, make_host):
    """A host, and the `NaFlexVit` with the same weights."""

    def build(**kwargs):
        # timm carries positions of square grids over, and of no others.
        return timm.create_model(CLASSIC[request.param], **kwargs | {"img_size": 24})

    classic, flexible = make_host(build), make_host(partial(build, use_naflex=True))
    assert type(flexible) is NaFlexVit
    # timm's conversion adds to what it is given.
    weights = {name: value.clone() for name, value in classic.state_dict().items()}
    flexible.load_state_dict(checkpoint_filter_fn(weights, flexible))
    return classic, flexible


@pytest.fixture(scope="module")
def square_images():
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def factorized(make_host):
    """Positions of rows and of columns apart, attention pooling, register tokens."""
    return make_host(
        lambda **kwargs: timm.create_model(
            "naflexvit_base_patch16_map", pos_embed="factorized", reg_tokens=2, **kwargs
        )
    )


def test_it_is_reduced_as_the_host_that_it_stands_for(pair, square_images):
    classic, flexible = pair
    torch.testing.assert_close(flexible(square_images), classic(square_images), rtol=0, atol=1e-5)
    for method in reduction.METHODS:
        ours, theirs = (reduced(host, method, keep_rate=0.6) for host in (flexible, classic))
        ours.stages.load_state_dict(theirs.stages.state_dict())
        (found, trace), (expected, other) = (
            model.forward_with_trace(square_images) for model in (ours, theirs)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5, msg=method)
        assert trace.grid == other.grid == (6, 6)
        assert reduction.flops(ours).macs == pytest.approx(reduction.flops(theirs).macs)


def test_images_of_another_shape_are_reduced_too(factorized):
    images = torch.randn(3, 3, 24, 16, generator=torch.Generator().manual_seed(1))
    assert_nothing_reduced_is_the_host(factorized, images)
    assert_images_do_not_see_their_batch(factorized, images)
    model = reduced(factorized, "tome", keep_rate=0.6)
    assert model.forward_with_trace(images)[1].grid == (6, 4)


def test_the_host_comes_back(pair, square_images):
    _, flexible = pair
    host = reduction.unreduce(reduced(flexible, "tome", keep_rate=0.6))
    assert type(host) is NaFlexVit
    assert torch.equal(host(square_images), flexible(square_images))


def test_images_of_several_sizes_are_refused_with_what_to_do(factorized):
    model = reduced(factorized, "tome", keep_rate=0.6)
    patches = {"patches": torch.zeros(2, 9, 48), "patch_valid": torch.ones(2, 9) > 0}
    with pytest.raises(TypeError, match=r"images is a dict, but must .*; batch images by size"):
        model(patches)
