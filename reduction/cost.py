"""Floating-point operations of a model, from the real number of tokens at each point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from timm.layers import Attention
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from reduction.model import stages_by_block
from reduction.stage import Count, Stage


@dataclass(frozen=True)
class Cost:
    """Work of one forward pass on one image, matrix products and convolutions only."""

    macs: float
    """Multiply-accumulates; what papers often call FLOPs."""

    @property
    def flops(self) -> float:
        """Floating-point operations: two a multiply-accumulate."""
        return 2 * self.macs


def flops(model: VisionTransformer, tokens: Mapping[int, float | Tensor] | None = None) -> Cost:
    """Return the cost of an image of the model's own size.

    Args:
        model: A reduced model or a plain timm `VisionTransformer`.
        tokens: Block -> patch tokens left after its stage: a number, or a tensor [B] with one an
            image (such as `ReductionTrace.tokens`), over which the cost is averaged. None takes
            the counts that the stages are set to, the largest possible where images differ.

    Raises:
        ValueError: `tokens` lacks a stage, or a block is not timm's `Block` with `Attention`.
    """
    stages = stages_by_block(model)
    if tokens is not None and set(tokens) != set(stages):
        raise ValueError(f"tokens has blocks {list(tokens)}, but must have {list(stages)}")
    count: Count = model.patch_embed.num_patches
    macs: Count = 0
    for index, block in enumerate(model.blocks):
        _check_block(index, block)
        stage, incoming = stages.get(index), count
        if stage is not None:
            count = stage.count(incoming) if tokens is None else _exact(tokens[index])
            macs = macs + stage.macs(incoming, count, block)
        macs = macs + _block_macs(block, stage, incoming, count, model.num_prefix_tokens)
    embedded, headed = _ends(model, count)
    total = macs + embedded + headed
    return Cost(macs=total.mean().item() if isinstance(total, Tensor) else total)


def _exact(count: float | Tensor) -> Count:
    return count.double() if isinstance(count, Tensor) else count


def _check_block(index: int, block: nn.Module) -> None:
    if not isinstance(block, Block) or type(block.attn) is not Attention:
        raise ValueError(
            f"block {index} is a {type(block).__name__}, but must be timm's Block with Attention"
        )


def _block_macs(
    block: Block, stage: Stage | None, incoming: Count, left: Count, prefix: int
) -> Count:
    """Cost of one block; where its stage acts decides which parts see fewer tokens."""
    early = stage is None or stage.overrides("before_block")
    keys = prefix + (left if early else incoming)
    in_attention = early or (stage is not None and stage.overrides("select_queries"))
    queries = prefix + (left if in_attention else incoming)
    attention = block.attn
    per_query = _linear(attention.proj) + (0 if attention.gate is None else _linear(attention.gate))
    return (
        keys * _linear(attention.qkv)
        + queries * per_query
        + 2 * queries * keys * attention.attn_dim
        + (prefix + left) * _linear(block.mlp)
    )


def _linear(module: nn.Module) -> int:
    """Multiply-accumulates of all linear layers of `module` on one token."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    return sum(layer.in_features * layer.out_features for layer in layers)


def _ends(model: VisionTransformer, count: Count) -> tuple[int, Count]:
    """Cost of patch embedding and head, the parts whose kind is left to the host."""
    weight = next(model.patch_embed.parameters())
    image = weight.new_zeros(1, model.in_chans, *model.patch_embed.img_size)

    lengths = (model.num_prefix_tokens + patches for patches in (1, 2, 3))
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        one, two, three = (
            _measure(model.forward_head, weight.new_zeros(1, length, model.embed_dim))
            for length in lengths
        )
        embedding = _measure(model.patch_embed, image)
    # Attention pooling and heads on every token: at most quadratic in the number of patch tokens.
    slope, curvature = two - one, three - 2 * two + one
    return embedding, one + slope * (count - 1) + curvature * (count - 1) * (count - 2) / 2


def _measure(function: Callable[[Tensor], object], x: Tensor) -> int:
    """Count multiply-accumulates with torch's own counter, which cannot see fused CPU attention."""
    counter = FlopCounterMode(display=False)
    # The counter's hooks need gradients: it also tracks which module is at work.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        function(x)
    return counter.get_total_flops() // 2
