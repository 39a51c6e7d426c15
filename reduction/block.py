"""One block of the host, with the stage that acts at it."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from reduction.attention import AttentionView
from reduction.block_kinds import BLOCK_KINDS, BlockKind
from reduction.patch_projection import shallow_copy
from reduction.plan import NOTHING, Keep, Merge, Plan, Rest, apply
from reduction.projections import KINDS, attention_of, is_known
from reduction.stage import Stage
from reduction.tokens import Tokens


class Step:
    """What an `OpenBlock` is to do beside its own work, and what came of it.

    Apart from the features, which go in and out as they do in any block, so that hooks, gradient
    checkpointing and FSDP see a tensor. No dataclass, because FSDP2 hands on copies of those.
    """

    def __init__(self, tokens: Tokens, stage: Stage | None, *, watched: bool) -> None:
        """Set up the step.

        Args:
            tokens: Those that come in; their features are those the block is called with.
            stage: The stage that acts inside the block.
            watched: Whether the next stage looks back at the block's attention.
        """
        self.tokens, self.stage, self.watched = tokens, stage, watched
        self.left: Tokens | None = None
        """The tokens that go out; their features are what the block returns."""


class OpenBlock(nn.Module):
    """A block of timm's in which a stage may act; one that `with_open` made of the host's.

    Called without a step, it does what the host's block does.
    """

    block_class: type[nn.Module]
    """The class of the host's block."""

    def forward(self, x: Tensor, *args: Any, step: Step | None = None, **kwargs: Any) -> Tensor:
        """Return the features [B, P + K, C] of the tokens left of x [B, P + N, C]."""
        if step is None:
            return super().forward(x, *args, **kwargs)
        tokens = replace(step.tokens, x=x)
        if step.left is not None:  # gradient checkpointing runs the block again
            tokens = replace(tokens, recorder=None)
        step.left = _run(self, step.stage, tokens, watched=step.watched)
        return step.left.x

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made at run time, so that a pickle has to name the host's instead.
        return _blank, (self.block_class,), self.__dict__


@cache
def _open_class(block_class: Any) -> type[OpenBlock]:
    name = f"Open{block_class.__name__}"
    return type(name, (OpenBlock, block_class), {"block_class": block_class})


def _blank(block_class: Any) -> OpenBlock:
    cls = _open_class(block_class)
    return cls.__new__(cls)


def with_open(blocks: nn.Sequential, opened: set[int]) -> nn.Sequential:
    """Return the blocks, parameters shared, of which those of the indices `opened` are open."""
    twin = shallow_copy(blocks)
    for index, block in enumerate(blocks):
        if isinstance(block, OpenBlock) != (index in opened):
            twin[index] = _changed(block)
    return twin


def _changed(block: nn.Module) -> nn.Module:
    """Return an open twin of a block, or a plain one of an open block."""
    kind: type = type(block)
    twin: nn.Module = shallow_copy(block)
    twin.__class__ = block.block_class if isinstance(block, OpenBlock) else _open_class(kind)
    return twin


def _run(block: OpenBlock, stage: Stage | None, tokens: Tokens, *, watched: bool) -> Tokens:
    """Run a block with a stage that acts inside it, or for one that looks back at it."""
    attention, everything, ahead = _look(block, tokens), tokens, NOTHING
    if stage is not None and stage.acts_at("before_attention"):
        ahead = stage.before_attention(tokens, attention)
        tokens = apply(ahead, tokens, stage.spec.block)
        attention = _look_again(block, ahead, tokens, attention)
    tokens = _attend(block, stage, tokens, attention)
    if watched:
        tokens = replace(tokens, received=attention.received[:, tokens.num_prefix :])
    if stage is not None:
        tokens = apply(stage.after_attention(tokens, attention), tokens, stage.spec.block)
    if stage is None or not stage.acts_at("after_block"):
        del attention  # makes room for the MLP
        tokens = _mlp(block, tokens)
    else:
        tokens = _mlp(block, tokens)
        tokens = apply(stage.after_block(tokens, attention), tokens, stage.spec.block)
    return ahead.put_back(everything, tokens) if isinstance(ahead, Rest) else tokens


def check_block(index: int, block: nn.Module, purpose: str = "") -> None:
    """Check that a block is of a kind that stages can look into.

    Args:
        index: Of the block in its host.
        block: The block, open or not.
        purpose: End of the message, such as ` for topk`.

    Raises:
        ValueError: It is not.
    """
    part: Any = block
    if _block_class(block).forward in BLOCK_KINDS:
        part = attention_of(block)
        if is_known(part):
            return
    raise ValueError(
        f"block {index} is built with {type(part).__name__}, but must be one of timm's "
        f"{_names(BLOCK_KINDS)} with {_names(KINDS)}{purpose}"
    )


def _block_class(block: nn.Module) -> type[nn.Module]:
    return block.block_class if isinstance(block, OpenBlock) else type(block)


def _names(forwards: Iterable[Callable[..., Any]]) -> str:
    names = (forward.__qualname__.split(".")[0] for forward in forwards)
    return ", ".join(dict.fromkeys(names))


def _kind(block: OpenBlock) -> BlockKind:
    return BLOCK_KINDS[block.block_class.forward]


def _look(block: OpenBlock, tokens: Tokens) -> AttentionView:
    return AttentionView(attention_of(block), _kind(block).attention_input(block, tokens.x), tokens)


def _look_again(
    block: OpenBlock, plan: Plan, tokens: Tokens, attention: AttentionView
) -> AttentionView:
    """Return the attention after a plan; tokens that stay as they are keep their projections."""
    if plan is NOTHING:
        return attention
    if isinstance(plan, Rest) or (isinstance(plan, Keep) and plan.only_selects):
        return attention.take(_rows(plan.index, tokens.num_prefix), tokens)
    if isinstance(plan, Merge) and plan.reuses_attention:
        assert plan.shares is not None
        return attention.merge(
            _kind(block).attention_input(block, tokens.x),
            tokens,
            _rows(plan.assignment, tokens.num_prefix),
            tokens.with_prefix(plan.shares),
        )
    return _look(block, tokens)


def _rows(index: Tensor, num_prefix: int) -> Tensor:
    """Positions of the prefix tokens, then of the patches `index` [B, K] among all."""
    prefix = torch.arange(num_prefix, device=index.device).expand(index.shape[0], -1)
    return torch.cat((prefix, index + num_prefix), dim=1)


def _attend(
    block: OpenBlock, stage: Stage | None, tokens: Tokens, attention: AttentionView
) -> Tokens:
    """Add the attention of the tokens that ask."""
    plan: Plan = NOTHING if stage is None else stage.select_queries(tokens, attention)
    rows = _rows(plan.index, tokens.num_prefix) if isinstance(plan, Keep) else None
    tokens = tokens if stage is None else apply(plan, tokens, stage.spec.block)
    x = _kind(block).add_attention(block, tokens.x, attention.output(rows))
    return replace(tokens, x=x, received=None)


def _mlp(block: OpenBlock, tokens: Tokens) -> Tokens:
    return replace(tokens, x=_kind(block).add_mlp(block, tokens.x))
