"""Floating-point operations of a model, from the real number of tokens at each point."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from reduction.block import check_block
from reduction.host_input import image_size, num_patches, patch_embedding
from reduction.model import stages_by_block
from reduction.projections import SideBySide, attention_dim, attention_of, is_parallel
from reduction.stage import Count, HostBlock, Stage


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
        ValueError: `tokens` lacks a stage, or a block is not of a kind
            that stages can look into.
    """
    stages = stages_by_block(model)
    if tokens is not None and set(tokens) != set(stages):
        raise ValueError(f"tokens has blocks {list(tokens)}, but must have {list(stages)}")
    count: Count = num_patches(model)
    macs: Count = 0
    for index, block in enumerate(model.blocks):
        check_block(index, block)
        stage, incoming = stages.get(index), count
        if stage is not None:
            count = stage.count(incoming) if tokens is None else _exact(tokens[index])
            macs = macs + stage.macs(incoming, count, block)
        macs = macs + _block_macs(block, stage, incoming, count, model.num_prefix_tokens)
        if stage is not None and stage.rests:
            count = incoming
    embedded, headed = _ends(model, count)
    total = macs + embedded + headed
    return Cost(macs=total.mean().item() if isinstance(total, Tensor) else total)


class HostCost:
    """The cost of a host as a function of its numbers of tokens, whatever a method itself takes.

    Args:
        model: A reduced model.
    """

    def __init__(self, model: VisionTransformer) -> None:
        self._blocks = [cast("HostBlock", block) for block in model.blocks]
        self._tokens = model.num_prefix_tokens + num_patches(model)
        embedded, headed = _ends(model, num_patches(model))
        self._ends = embedded + headed

    def __call__(self, counts: Mapping[int, Count]) -> Count:
        """Return the multiply-accumulates of an image.

        Args:
            counts: Block -> tokens left between its attention and its MLP, prefix tokens included;
                blocks that are missing leave all. Scalar tensors keep their gradient.
        """
        total, incoming = self._ends, self._tokens
        for index, block in enumerate(self._blocks):
            left = counts.get(index, incoming)
            total = total + _work(block, incoming, incoming, incoming, left)
            incoming = left
        return total


def _exact(count: float | Tensor) -> Count:
    return count.double() if isinstance(count, Tensor) else count


def _block_macs(
    block: HostBlock, stage: Stage | None, incoming: Count, left: Count, prefix: int
) -> Count:
    """Cost of one block; where its stage acts decides which parts see fewer tokens."""
    projected, keys, queries, last = (
        prefix + (left if _reduced_by(stage, hooks) else incoming)
        for hooks in (_HOOKS[:1], _HOOKS[:2], _HOOKS[:3], _HOOKS[:4])
    )
    return _work(block, projected, queries, keys, last)


def _work(block: HostBlock, projected: Count, queries: Count, keys: Count, last: Count) -> Count:
    """Cost of a block on so many tokens in each of its parts."""
    attention = attention_of(block)
    return (
        projected * _projection_macs(attention)
        + queries * _output_macs(attention)
        + 2 * queries * keys * attention_dim(attention)
        + (queries if is_parallel(block) else last) * _mlp_macs(block)
    )


def _projection_macs(attention: Any) -> int:
    """Cost of queries, keys and values of one token."""
    if is_parallel(attention):
        return int(attention.in_proj.in_features) * sum(attention.in_split[1:])
    if isinstance(attention, SideBySide):
        return sum(_projection_macs(branch.attn) for branch in attention.branches)
    if attention.qkv is not None:
        return _linear(attention.qkv)
    return sum(map(_linear, (attention.q_proj, attention.k_proj, attention.v_proj)))


def _output_macs(attention: Any) -> int:
    """Cost of what comes of the heads, for one token that asks."""
    if is_parallel(attention):
        return int(attention.in_proj.in_features) * attention_dim(attention)
    if isinstance(attention, SideBySide):
        return sum(_output_macs(branch.attn) for branch in attention.branches)
    gate = getattr(attention, "gate", None)
    return _linear(attention.proj) + (0 if gate is None else _linear(gate))


def _mlp_macs(block: HostBlock) -> int:
    """Cost of the MLP for one token."""
    if is_parallel(block):
        return 2 * int(block.in_proj.in_features) * int(block.in_split[0])
    return _linear(block.ffns if hasattr(block, "ffns") else block.mlp)


_HOOKS = ("before_block", "before_attention", "select_queries", "after_attention")


def _reduced_by(stage: Stage | None, hooks: Sequence[str]) -> bool:
    return stage is None or any(stage.acts_at(hook) for hook in hooks)


def _linear(module: nn.Module) -> int:
    """Multiply-accumulates of all linear layers of `module` on one token."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    return sum(layer.in_features * layer.out_features for layer in layers)


def _ends(model: VisionTransformer, count: Count) -> tuple[int, Count]:
    """Cost of patch embedding and head, the parts whose kind is left to the host."""
    patches = patch_embedding(model)
    weight = next(patches.parameters())
    image = weight.new_zeros(1, model.in_chans, *image_size(model))

    lengths = (model.num_prefix_tokens + number for number in (1, 2, 3))
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        one, two, three = (
            _measure(model.forward_head, weight.new_zeros(1, length, model.embed_dim))
            for length in lengths
        )
        embedding = _measure(patches, image)
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
