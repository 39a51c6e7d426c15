"""A host's patch embedding as one matrix product, and back.

cuDNN has no fast convolution for patches of 16 pixels: on an H100 in bfloat16 it takes six times as
long as the product, a tenth of DeiT-Small's forward pass (`docs/benchmarks.md`).
"""

import copy
from typing import Any

import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn


class PatchProjection(nn.Conv2d):
    """A convolution whose windows lie side by side, computed as a product with the patches."""

    def forward(self, images: Tensor) -> Tensor:
        """Project images [B, channels, height, width] to [B, C, rows, columns]."""
        (height, width), (batch, channels) = self.kernel_size, images.shape[:2]
        rows, columns = images.shape[2] // height, images.shape[3] // width
        whole = images[:, :, : rows * height, : columns * width]
        windows = whole.reshape(batch, channels, rows, height, columns, width)
        patches = windows.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def with_product(patch_embed: nn.Module) -> Any:
    """Return timm's `PatchEmbed` with a `PatchProjection`, weights shared; others as they are."""
    return _with_projection(patch_embed, nn.Conv2d, PatchProjection)


def with_convolution(patch_embed: nn.Module) -> Any:
    """Undo `with_product`, parameters shared."""
    return _with_projection(patch_embed, PatchProjection, nn.Conv2d)


def shallow_copy(module: nn.Module) -> Any:
    """Copy the module object, with its own registries of the same parameters and submodules."""
    twin = module.__class__.__new__(module.__class__)
    for name, value in vars(module).items():
        twin.__dict__[name] = copy.copy(value) if isinstance(value, (dict, set)) else value
    return twin


def _with_projection(embed: Any, old: type[nn.Conv2d], new: type[nn.Conv2d]) -> Any:
    if type(embed) is not PatchEmbed or type(embed.proj) is not old:
        return embed
    twin, projection = shallow_copy(embed), shallow_copy(embed.proj)
    projection.__class__ = new
    twin.proj = projection
    return twin
