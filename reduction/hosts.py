"""The kinds of timm ViTs that can be reduced, and what is particular about each."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from timm.models import Beit, Eva, NaFlexVit, VisionTransformer, VisionTransformerRelPos
from torch import Tensor, nn

from reduction.model import ReducedVisionTransformer
from reduction.pooling import mean_pool, weights_of
from reduction.relative import RelativeBias
from reduction.rope import Rope
from reduction.tokens import Tokens


class ReducedPlain(ReducedVisionTransformer):
    """A timm `VisionTransformer`: positions are in the embedded tokens."""

    def embed(self, images: Tensor) -> Tokens:
        """Return the tokens that come into the first block."""
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(images))))
        return self.tokens_of(x, images)


class ReducedEva(ReducedVisionTransformer):
    """A timm `Eva`: as a rule, every block rotates queries and keys by their places."""

    def embed(self, images: Tensor) -> Tokens:
        """Return the tokens that come into the first block, with their places."""
        x, tables = self._pos_embed(self.patch_embed(images))
        tokens = self.tokens_of(self.norm_pre(x), images)
        if tables is None:
            return tokens
        return rotated(tokens, self.rope, tables)

    def block_arguments(self, tokens: Tokens) -> dict[str, Tensor | None]:
        """Return what a block of the host takes beside the features of `tokens`."""
        return super().block_arguments(tokens) | {"rope": tokens.rotation()}

    def pools_prefix(self) -> bool:
        """Return whether pooling takes the prefix tokens in: attention pooling does."""
        return self.attn_pool is not None


class ReducedNaFlex(ReducedVisionTransformer):
    """A timm `NaFlexVit` on images of one size, with rotations where the host has them."""

    def embed(self, images: Tensor) -> Tokens:
        """Return the tokens that come into the first block, with their places if rotated.

        Raises:
            TypeError: `images` is what timm's collator makes of images of several sizes.
        """
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise TypeError(
                f"images is {_described(images)}, but must be a tensor [B, channels, height, "
                "width]; batch images by size"
            )
        embedded = self._forward_embeds(images, None, None, None)
        tokens = self.tokens_of(embedded["patches"], images)
        if self.rope is None:
            return tokens
        return rotated(tokens, self.rope, embedded["rope_embeds"])

    def block_arguments(self, tokens: Tokens) -> dict[str, Tensor | None]:
        """Return what a block of the host takes beside the features of `tokens`."""
        arguments = super().block_arguments(tokens)
        return arguments if self.rope is None else arguments | {"rope": tokens.rotation()}

    def host_pool(self, x: Tensor, pool_type: str | None) -> Tensor:
        """Pool features x [B, P + N, C] as the host does."""
        pooled: Tensor = super()._pool(x, pool_type)
        return pooled

    def _pool(
        self, x: Tensor, pool_type: str | None = None, patch_valid: Tensor | None = None
    ) -> Tensor:
        """Pool in the host's head; tokens know themselves which of them are padding."""
        return self.pool(x, pool_type)


class ReducedRelative(ReducedVisionTransformer):
    """A timm `Beit` or `VisionTransformerRelPos`: attention looks at displacements."""

    def embed(self, images: Tensor) -> Tokens:
        """Return the tokens that come into the first block, with their places."""
        x = self.patch_embed(images)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        if getattr(self, "pos_embed", None) is not None:
            x = x + self.pos_embed
        if hasattr(self, "pos_drop"):
            x = self.pos_drop(x)
        tokens = self.tokens_of(x, images)
        start = grid_places(tokens.grid, x.device).expand(x.shape[0], -1, -1)
        relative = RelativeBias(
            grid=tokens.grid, num_prefix=tokens.num_prefix, start=start, shared=self.shared_bias()
        )
        return replace(tokens, coordinates=start, relative=relative)

    def shared_bias(self) -> Tensor | None:
        """Return what all blocks add to their logits, [1, H, P + N0, P + N0]."""
        if isinstance(self, Beit):
            return None if self.rel_pos_bias is None else self.rel_pos_bias()[None]
        return None if self.shared_rel_pos is None else self.shared_rel_pos.get_bias()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of features x [B, P + N, C], tokens counted by size if pooled."""
        pooled = self.fc_norm(self.pool(x))
        pooled = self.head_drop(pooled)
        return pooled if pre_logits else self.head(pooled)

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool features as the host does, but count tokens by their size, and padding not at all.

        Args:
            x: [B, P + N, C], as `forward_features` returned them.
            pool_type: In place of `global_pool`.
        """
        kind = self.global_pool if pool_type is None else pool_type
        if kind != "avg":
            return x[:, 0] if kind else x
        weights = weights_of(x) if self._weights is None else self._weights
        patches = x[:, self.num_prefix_tokens :]
        if weights is None:
            return patches.mean(dim=1)
        return mean_pool(patches, weights[:, self.num_prefix_tokens :])


def rotated(tokens: Tokens, module: nn.Module, tables: Tensor) -> Tokens:
    """Return the tokens of all patches with their places, and what rotates them there.

    Args:
        tokens: That come into the first block.
        module: See `Rope`.
        tables: See `Rope`.
    """
    start = grid_places(tokens.grid, tokens.x.device).expand(tokens.x.shape[0], -1, -1)
    rope = Rope(module=module, grid=tokens.grid, start=start, tables=tables)
    return replace(tokens, coordinates=start, rope=rope)


def _described(images: object) -> str:
    if isinstance(images, Tensor):
        return f"a tensor {list(images.shape)}"
    return f"a {type(images).__name__}"


def grid_places(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return row and column [rows * columns, 2] float32 of each patch of a grid."""
    sides = (torch.arange(side, device=device, dtype=torch.float32) for side in grid)
    return torch.cartesian_prod(*sides)


RELATIVE = (Beit, VisionTransformerRelPos)
"""Hosts whose blocks take no other tokens than all of them."""

KINDS: dict[Any, type[ReducedVisionTransformer]] = {
    VisionTransformer: ReducedPlain,
    Eva: ReducedEva,
    NaFlexVit: ReducedNaFlex,
    Beit: ReducedRelative,
    VisionTransformerRelPos: ReducedRelative,
}
"""Class of timm's -> base of its reduced models."""


def host_kind(host_class: Any) -> type[ReducedVisionTransformer] | None:
    """Return the base of reduced models of a class of hosts; None where there is none.

    A class counts as one of the `KINDS` where it walks its blocks as that does.
    """
    for kind, base in KINDS.items():
        if issubclass(host_class, kind) and host_class.forward_features is kind.forward_features:
            return base
    return None


@cache
def reduced_class(host_class: type) -> type[ReducedVisionTransformer]:
    """Return the one class of reduced models of `host_class`, which is of one of the `KINDS`."""
    base = host_kind(host_class)
    assert base is not None
    members = {"host_class": host_class, "__reduce_ex__": _by_host_class}
    return type(f"Reduced{host_class.__name__}", (base, host_class), members)


def _by_host_class(model: ReducedVisionTransformer, protocol: Any) -> tuple[Any, ...]:
    # The class is made at run time, so that a pickle has to name the host's instead.
    return _blank, (model.host_class,), model.__dict__


def _blank(host_class: type) -> ReducedVisionTransformer:
    cls = reduced_class(host_class)
    return cls.__new__(cls)
