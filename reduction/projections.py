"""How timm's kinds of attention make queries, keys and values, and an output of their heads."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models import beit
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, [B, H, T, D] each."""


class SideBySide:
    """The attentions of a `ParallelThingsBlock` as one, which has the heads of all."""

    block_class = ParallelThingsBlock

    def __init__(self, block: Any) -> None:
        self.branches = list(block.attns)
        first = self.branches[0].attn
        self.num_heads = len(self.branches) * int(first.num_heads)
        self.head_dim, self.scale = int(first.head_dim), float(first.scale)
        self.fused_attn, self.attn_drop = bool(first.fused_attn), first.attn_drop
        self.training = bool(block.training)


def project(attention: Any, x: Tensor, rope: Tensor | None, num_prefix: int) -> Heads:
    """Return queries, keys and values of x [B, T, C], as the softmax sees them.

    Args:
        attention: Of one of the `KINDS`.
        x: Tokens as they come into the attention.
        rope: [..., N, 2 * D] sines and cosines, by which all but the `num_prefix` first tokens
            are rotated; None where the host has none.
        num_prefix: P.
    """
    kind: Any = attention
    queries, keys, values = KINDS[forward_of(attention)](kind, x)
    if hasattr(kind, "q_norm"):
        queries, keys = kind.q_norm(queries), kind.k_norm(keys)
    if rope is not None:
        queries, keys = (
            _rotate(heads, rope, num_prefix, kind.rotate_half).type_as(values)
            for heads in (queries, keys)
        )
    groups = getattr(kind, "num_kv_groups", 1)
    if groups > 1:
        keys, values = (heads.repeat_interleave(groups, dim=1) for heads in (keys, values))
    return queries, keys, values


def combine(attention: Any, merged: Tensor, x: Tensor) -> Tensor:
    """Return the output [B, K, C] of an attention.

    Args:
        attention: Of one of the `KINDS`.
        merged: [B, K, H * D] what the heads made of the values.
        x: [B, K, C] tokens that asked, as they came into the attention.
    """
    if is_parallel(attention):
        return _parallel_output(attention, merged)
    if isinstance(attention, SideBySide):
        return _joint_output(attention, merged, x)
    if hasattr(attention, "norm"):
        merged = attention.norm(merged)
    if getattr(attention, "gate", None) is not None:
        merged = merged * attention.gate(x).sigmoid()
    output: Tensor = attention.proj_drop(attention.proj(merged))
    return output


def attention_of(block: Any) -> Any:
    """Return the attention of a block: the block itself where that is no module of its own."""
    if forward_of(block) is ParallelThingsBlock.forward:
        return SideBySide(block)
    return getattr(block, "attn", block)


def is_known(attention: Any) -> bool:
    """Return whether an attention is of one of the `KINDS`."""
    parts = [attention]
    if isinstance(attention, SideBySide):
        parts = [branch.attn for branch in attention.branches]
    return all(forward_of(part) in KINDS for part in parts)


def forward_of(module: Any) -> Callable[..., Any]:
    """Return the function that a module's class runs: it tells what kind of module that is.

    Of an open block it is the one of the host's.
    """
    kind: Any = getattr(module, "block_class", type(module))
    forward: Callable[..., Any] = kind.forward
    return forward


def is_parallel(module: Any) -> bool:
    """Return whether a module is a block whose attention and MLP stand side by side."""
    return forward_of(module) is ParallelScalingBlock.forward


def head_dim(attention: Any) -> int:
    """Return D, the channels of a head of an attention."""
    if hasattr(attention, "head_dim"):
        return int(attention.head_dim)
    return int(attention.qkv.out_features) // (3 * int(attention.num_heads))


def attention_dim(attention: Any) -> int:
    """Return the channels of all heads of an attention together."""
    return int(attention.num_heads) * head_dim(attention)


def _rotate(heads: Tensor, rope: Tensor, num_prefix: int, half: bool) -> Tensor:
    patches = apply_rot_embed_cat(heads[:, :, num_prefix:], rope, half=half)
    return torch.cat((heads[:, :, :num_prefix], patches), dim=2)


def _of_attention(attention: Any, x: Tensor) -> Heads:
    return _split(attention, attention.qkv(x))


def _of_eva(attention: Any, x: Tensor) -> Heads:
    if attention.qkv is None or attention.q_bias is None:
        return _of_rope(attention, x)
    bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    if attention.qkv_bias_separate:
        return _split(attention, attention.qkv(x) + bias)
    return _split(attention, F.linear(x, attention.qkv.weight, bias))


def _of_rope(attention: Any, x: Tensor) -> Heads:
    if attention.qkv is not None:
        return _of_attention(attention, x)
    queries, keys, values = (
        part(x).unflatten(-1, (-1, head_dim(attention))).transpose(1, 2)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return queries, keys, values


def _of_parallel(block: Any, x: Tensor) -> Heads:
    hidden, layer = block.in_split[0], block.in_proj
    bias = None if layer.bias is None else layer.bias[hidden:]
    return _split(block, F.linear(x, layer.weight[hidden:], bias))


def _of_several(attentions: SideBySide, x: Tensor) -> Heads:
    parts = [project(each.attn, each.norm(x), None, 0) for each in attentions.branches]
    queries, keys, values = (torch.cat(heads, dim=1) for heads in zip(*parts, strict=True))
    return queries, keys, values


def _joint_output(attentions: SideBySide, merged: Tensor, x: Tensor) -> Tensor:
    branches = attentions.branches
    outputs = [
        branch.drop_path(branch.ls(combine(branch.attn, part, branch.norm(x))))
        for branch, part in zip(branches, merged.chunk(len(branches), dim=-1), strict=True)
    ]
    return torch.stack(outputs).sum(dim=0)


def _parallel_output(block: Any, merged: Tensor) -> Tensor:
    """Return the attention's part of the output; the bias of a fused layer is the MLP's."""
    if block.out_proj is None:
        output: Tensor = block.attn_out_proj(merged)
        return output
    return F.linear(merged, block.out_proj.weight[:, : merged.shape[-1]])


def _split(attention: Any, projected: Tensor) -> Heads:
    shape = (*projected.shape[:2], 3, attention.num_heads, head_dim(attention))
    queries, keys, values = projected.view(shape).permute(2, 0, 3, 1, 4).unbind(0)
    return queries, keys, values


KINDS: dict[Callable[..., Any], Callable[[Any, Tensor], Heads]] = {
    Attention.forward: _of_attention,
    AttentionRope.forward: _of_rope,
    EvaAttention.forward: _of_eva,
    RelPosAttention.forward: _of_attention,
    beit.Attention.forward: _of_eva,
    ParallelScalingBlock.forward: _of_parallel,
    ParallelThingsBlock.forward: _of_several,
}
"""Forward function of a kind of attention -> its projections, neither normalised nor rotated."""
