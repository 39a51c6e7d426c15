"""The patch embedding as a product gives what the convolution gives."""

import pytest
import torch
from timm.layers import PatchEmbed, PatchEmbedWithSize
from torch import nn

from reduction.patch_projection import PatchProjection, with_convolution, with_product

SHAPES = [
    ({"img_size": (20, 28)}, (20, 28)),
    ({"img_size": None}, (22, 31)),  # what is no whole patch is left out
    ({"img_size": (20, 28), "strict_img_size": False, "dynamic_img_pad": True}, (22, 31)),
    ({"img_size": (20, 28), "bias": False, "output_fmt": "NHWC"}, (20, 28)),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("options", "size"), SHAPES)
def test_same_patches_and_gradients(device, options, size, layout):
    torch.manual_seed(0)
    embed = PatchEmbed(patch_size=4, embed_dim=32, **options).double().to(device)
    images = torch.randn(3, 3, *size, dtype=torch.float64, device=device)
    images = images.to(memory_format=layout)
    product = with_product(embed)
    assert type(product.proj) is PatchProjection
    results = []
    for module in (embed, product):
        module.zero_grad()
        out = module(images)
        out.square().sum().backward()
        results.append((out, embed.proj.weight.grad))
    torch.testing.assert_close(results[0], results[1])


def test_weights_are_shared_and_the_convolution_comes_back():
    embed = PatchEmbed(img_size=20, patch_size=4, embed_dim=32)
    product = with_product(embed)
    back = with_convolution(product)
    assert type(embed.proj) is type(back.proj) is nn.Conv2d
    assert embed.proj.weight is product.proj.weight is back.proj.weight
    assert list(product.state_dict()) == list(embed.state_dict())


def test_others_stay_as_they_are():
    embed = PatchEmbedWithSize(img_size=20, patch_size=4, embed_dim=32)
    assert with_product(embed) is embed
