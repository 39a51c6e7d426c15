"""Stages of a host: made for a schedule, put in place, and changed with it."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar, cast

from timm.models import VisionTransformer
from torch import nn

from reduction.block import check_block, with_open
from reduction.host_input import patch_embedding, patch_grid
from reduction.hosts import RELATIVE
from reduction.methods import METHODS, method_class
from reduction.projections import head_dim
from reduction.schedule import Amount, KeepRate, MethodOptions, Removals, Schedule, make_schedule
from reduction.stage import Stage, StageSpec, has_cls

ReducedModel = TypeVar("ReducedModel", bound=VisionTransformer)


def check_reduced(model: object) -> None:
    """Check that a model is one that `reduce` has made.

    Raises:
        TypeError: It is not.
    """
    if not (isinstance(model, nn.Module) and hasattr(model, "chose_blocks")):
        raise TypeError(f"model is a {type(model).__name__}, but must be a reduced model")


def set_schedule(
    model: VisionTransformer,
    *,
    keep_rate: KeepRate | None = None,
    tokens: Sequence[int] | None = None,
    r: Removals | None = None,
    reduction_loc: Sequence[int] | None = None,
) -> None:
    """Change how much a model reduces, and where.

    Args:
        model: A reduced model.
        keep_rate: See `reduce`.
        tokens: See `reduce`.
        r: See `reduce`.
        reduction_loc: See `reduce`; None leaves the blocks that were asked for, and otherwise
            takes the default.

    Raises:
        TypeError: `model` is not a reduced model, or an argument has the wrong type.
        ValueError: An argument is not allowed; the parameters of the method depend on how many
            tokens it keeps; or they belong to other blocks.
    """
    check_reduced(model)
    if not len(model.stages):
        raise ValueError("model has no stages left, but must have one")
    amount = Amount(keep_rate, tokens, r)
    chosen = reduction_loc
    if chosen is None and model.chose_blocks:
        chosen = model.reduction_loc
    asked = make_schedule(len(model.blocks), **amount._asdict(), reduction_loc=chosen)
    stage_class = type(cast("Stage", model.stages[0]))
    stages = make_stages(model, model.method, stage_class, asked, model.options)
    if any(True for _ in model.stages.parameters()):
        _keep_parameters(model, stages)
    else:
        install(model, stages)
    model.chose_blocks = model.chose_blocks or reduction_loc is not None
    remember(model, amount, asked)


def rescheduled(model: ReducedModel, removal: int) -> ReducedModel:
    """Return a model with the same parameters, whose stages each remove so many tokens.

    It shares all modules but the stages, for which it has copies, so that both can take part in one
    backward pass.

    Args:
        model: A reduced model whose stages have no parameters of their own.
        removal: Tokens that each stage is asked to remove, at least 0.
    """
    blocks = model.reduction_loc
    schedule = Schedule(blocks=blocks, removals=(removal,) * len(blocks))
    stages = [copy.copy(cast("Stage", stage)) for stage in model.stages]
    for stage in stages:
        stage.respecify(replace(stage.spec, schedule=schedule))
    other = copy.copy(model)
    other._modules = {**model._modules, "stages": nn.ModuleList(stages)}
    return other


def _keep_parameters(model: VisionTransformer, stages: nn.ModuleList) -> None:
    """Give the model's stages the places of others that are built alike."""
    olds = [cast("Stage", stage) for stage in model.stages]
    specs = [cast("Stage", stage).spec for stage in stages]
    if olds[0].shaped_by_count:
        raise ValueError(
            f"{model.method} has parameters for each token it keeps, so that its schedule cannot "
            "change; reduce the host anew"
        )
    blocks = [old.spec.block for old in olds]
    if blocks != [spec.block for spec in specs]:
        raise ValueError(
            f"reduction_loc is {[spec.block for spec in specs]}, but must stay {blocks} for "
            f"{model.method}, whose stages have parameters"
        )
    for old, spec in zip(olds, specs, strict=True):
        old.respecify(spec)


def install(model: VisionTransformer, stages: nn.ModuleList) -> None:
    """Give a model its stages, and open the blocks that they look into."""
    opened = _opened(model, [cast("Stage", stage) for stage in stages])
    model.blocks, model.stages = with_open(model.blocks, opened), stages


def remember(model: VisionTransformer, amount: Amount, asked: Schedule) -> None:
    """Note on a model how much it was asked to reduce, and where."""
    model.amount = amount if amount != Amount() else Amount(keep_rate=1.0)
    model.reduction_loc = asked.blocks


def make_stages(
    vit: VisionTransformer,
    method: str,
    stage_class: type[Stage],
    asked: Schedule,
    options: MethodOptions,
) -> nn.ModuleList:
    """Return the stages of a method for a host, on its device and in its mode.

    Raises:
        ValueError: The schedule or the host's blocks are not what the method needs.
    """
    schedule = stage_class.schedule(asked, len(vit.blocks), **options)
    specs = _specs(vit, schedule)
    _check_targets(method, stage_class, specs)
    stages = [stage_class(spec, **options) for spec in specs]
    _check_blocks(vit, method, stages)
    weight = next(patch_embedding(vit).parameters())
    return nn.ModuleList(stages).to(weight).train(vit.training)


def _check_blocks(vit: VisionTransformer, method: str, stages: Sequence[Stage]) -> None:
    for index in sorted(_opened(vit, stages)):
        if index < 0:
            raise ValueError(
                f"reduction_loc starts at block 0, but must start at 1 or later for {method}, "
                "which looks at the attention of the block before"
            )
        others = f" for {method}; {', '.join(_outsiders())} do not look into blocks"
        check_block(index, vit.blocks[index], others)


def _outsiders() -> list[str]:
    """Return the methods that no block needs to be opened for, with options at their defaults."""
    classes = {name: method_class(name) for name in METHODS}
    return [name for name, stage_class in classes.items() if not stage_class.looks_inside()]


def _opened(vit: VisionTransformer, stages: Sequence[Stage]) -> set[int]:
    """Blocks whose inside the stages look at or change, or that take no other tokens than all."""
    depth = len(vit.blocks)
    everywhere = stages[0].overrides("filter_attention") or isinstance(vit, RELATIVE)
    if everywhere or any(stage.masks_in_training for stage in stages):
        return set(range(depth))
    inside = {stage.spec.block for stage in stages if stage.opens_block()}
    return inside | {stage.spec.block - 1 for stage in stages if stage.looks_back}


def _specs(vit: VisionTransformer, schedule: Schedule) -> list[StageSpec]:
    return [
        StageSpec(
            index=index,
            schedule=schedule,
            grid=patch_grid(vit),
            dim=vit.embed_dim,
            head_dim=_head_dim(vit.blocks[0]),
            depth=len(vit.blocks),
            num_prefix=vit.num_prefix_tokens,
            has_cls=has_cls(vit),
            num_classes=vit.num_classes,
        )
        for index in range(len(schedule.blocks))
    ]


def _head_dim(block: nn.Module) -> int:
    heads = (part for part in block.modules() if hasattr(part, "num_heads"))
    return head_dim(next(heads))


def _check_targets(method: str, stage_class: type[Stage], specs: Sequence[StageSpec]) -> None:
    num_patches = specs[0].num_patches
    targets = specs[0].schedule.targets(num_patches)  # refuses fractions that leave no tokens
    if min(targets) < 1 and not stage_class.capped:
        stage = next(index for index, target in enumerate(targets) if target < 1)
        raise ValueError(
            f"r removes {num_patches - targets[stage]} of {num_patches} patch tokens up to block "
            f"{specs[stage].block}, but must leave at least 1 for {method}"
        )
