"""How timm's kinds of blocks are put together around their attention."""

from collections.abc import Callable
from typing import Any

import torch
from timm.models import beit
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import (
    Block,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
)
from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock
from torch import Tensor
from torch.nn.functional import linear


class BlockKind:
    """Norm, branch, layer scale, residual, twice: timm's `Block`."""

    def attention_input(self, block: Any, x: Tensor) -> Tensor:
        """Return what the attention of the block sees of x [B, T, C]."""
        normed: Tensor = block.norm1(x)
        return normed

    def add_attention(self, block: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return x [B, T, C] with the attention's output of the same shape."""
        return x + block.drop_path1(block.ls1(output))

    def add_mlp(self, block: Any, x: Tensor) -> Tensor:
        """Return x [B, T, C] with what the MLP makes of it."""
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


class EvaKind(BlockKind):
    """The same with parameters for layer scale."""

    def add_attention(self, block: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return x [B, T, C] with the attention's output of the same shape."""
        return x + block.drop_path1(_scaled(block.gamma_1, output))

    def add_mlp(self, block: Any, x: Tensor) -> Tensor:
        """Return x [B, T, C] with what the MLP makes of it."""
        return x + block.drop_path2(_scaled(block.gamma_2, block.mlp(block.norm2(x))))


class PostNormKind(BlockKind):
    """Branch, norm, residual, twice."""

    def attention_input(self, block: Any, x: Tensor) -> Tensor:
        """Return x [B, T, C] itself."""
        return x

    def add_attention(self, block: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return x [B, T, C] with the attention's output of the same shape."""
        return x + block.drop_path1(block.norm1(output))

    def add_mlp(self, block: Any, x: Tensor) -> Tensor:
        """Return x [B, T, C] with what the MLP makes of it."""
        return x + block.drop_path2(block.norm2(block.mlp(x)))


class ParallelKind(BlockKind):
    """Norm, attention and MLP side by side, one residual.

    There is nothing between attention and MLP: who acts after the attention acts after both.
    """

    def attention_input(self, block: Any, x: Tensor) -> Tensor:
        """Return what both branches of the block see of x [B, T, C]."""
        normed: Tensor = block.in_norm(x)
        return normed

    def add_attention(self, block: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return x [B, T, C] with the attention's output of the same shape, and with the MLP's."""
        hidden, layer = block.in_split[0], block.in_proj
        bias = block.mlp_bias if layer.bias is None else layer.bias[:hidden]
        inner = linear(block.in_norm(x), layer.weight[:hidden], bias)
        inner = block.mlp_drop(block.mlp_act(inner))
        if block.out_proj is None:
            mlp = block.mlp_out_proj(inner)
        else:
            last = block.out_proj
            mlp = linear(inner, last.weight[:, -hidden:], last.bias)
        return x + block.drop_path(block.ls(output + mlp))

    def add_mlp(self, block: Any, x: Tensor) -> Tensor:
        """Return x [B, T, C], in which the MLP is already."""
        return x


class SeveralKind(BlockKind):
    """The sum of several attentions, residual, the sum of several MLPs, residual."""

    def attention_input(self, block: Any, x: Tensor) -> Tensor:
        """Return x [B, T, C] itself: every attention has a norm of its own."""
        return x

    def add_attention(self, block: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return x [B, T, C] with the attentions' output of the same shape."""
        return x + output

    def add_mlp(self, block: Any, x: Tensor) -> Tensor:
        """Return x [B, T, C] with what the MLPs make of it."""
        return x + torch.stack([mlp(x) for mlp in block.ffns]).sum(dim=0)


def _scaled(gamma: Tensor | None, x: Tensor) -> Tensor:
    return x if gamma is None else gamma * x


BLOCK_KINDS: dict[Callable[..., Any], BlockKind] = {
    Block.forward: BlockKind(),
    EvaBlock.forward: EvaKind(),
    EvaBlockPostNorm.forward: PostNormKind(),
    ResPostBlock.forward: PostNormKind(),
    ParallelScalingBlock.forward: ParallelKind(),
    ParallelThingsBlock.forward: SeveralKind(),
    RelPosBlock.forward: BlockKind(),
    ResPostRelPosBlock.forward: PostNormKind(),
    beit.Block.forward: EvaKind(),
}
"""Forward function of a class of blocks -> how those are put together."""
