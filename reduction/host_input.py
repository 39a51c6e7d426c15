"""The images that a host is made for, and the patches that it cuts them into."""

from typing import Any

from timm.models import NaFlexVit
from torch import nn


def patch_embedding(vit: nn.Module) -> Any:
    """Return the module that turns images into patch tokens."""
    return vit.embeds if isinstance(vit, NaFlexVit) else vit.patch_embed


def image_size(vit: nn.Module) -> tuple[int, int]:
    """Return height and width in pixels of the images that a host is made for.

    A `NaFlexVit` takes any: here it is made for the size of its position embeddings, and without
    such for the size that it was pretrained with.
    """
    if not isinstance(vit, NaFlexVit):
        height, width = patch_embedding(vit).img_size
        return height, width
    embeds: Any = vit.embeds
    if embeds.default_img_size is not None:
        height, width = embeds.default_img_size
    elif embeds.pos_embed_grid_size is not None:
        sides = zip(embeds.pos_embed_grid_size, embeds.patch_size, strict=True)
        height, width = (side * patch for side, patch in sides)
    else:
        _, height, width = vit.pretrained_cfg["input_size"]
    return height, width


def patch_grid(vit: nn.Module) -> tuple[int, int]:
    """Return rows and columns of the patches of such an image."""
    embedding = patch_embedding(vit)
    if isinstance(vit, NaFlexVit):
        rows, columns = embedding.dynamic_feat_size(image_size(vit))
    else:
        rows, columns = embedding.grid_size
    return rows, columns


def num_patches(vit: nn.Module) -> int:
    """Return how many patches such an image has."""
    rows, columns = patch_grid(vit)
    return rows * columns
