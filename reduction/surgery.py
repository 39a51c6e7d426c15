"""Turning a timm `VisionTransformer` into a reduced one, and back."""

from collections.abc import Sequence
from typing import Any

import timm
from timm.layers import Attention, PatchDropout
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import nn

from reduction.methods import method_class
from reduction.model import ReducedVisionTransformer, reduced_class
from reduction.patch_projection import shallow_copy, with_convolution, with_product
from reduction.schedule import KeepRate, check_blocks
from reduction.stage import Stage, StageSpec

_ADDED = ("method", "keep_rate", "reduction_loc")


def reduce(
    vit: VisionTransformer,
    method: str,
    *,
    keep_rate: KeepRate = 1.0,
    reduction_loc: Sequence[int] = (3, 6, 9),
    **options: Any,
) -> ReducedVisionTransformer:
    """Return a model that runs `vit` with token reduction; `vit` itself stays as it is.

    The two share parameters and submodules, so that training, moving or switching the mode of
    one does the same to the other. The state dict has timm's names, and `stages.{i}.*` where the
    method learns something.

    Args:
        vit: A timm `VisionTransformer`.
        method: A name in `reduction.METHODS`.
        keep_rate: One cumulative rate in (0, 1], or for each stage the fraction of the original
            patch tokens to keep.
        reduction_loc: 0-based indices of the blocks that reduce, ascending.
        **options: The method's own options, see `reduction.METHODS[method].options`.

    Raises:
        TypeError: `vit` is not a timm `VisionTransformer`, or an option has the wrong type.
        ValueError: The host lacks what the method needs, or an argument is not allowed.
    """
    stage_class = method_class(method)
    _check_options(method, stage_class.options(), options)
    _check_host(vit, method, stage_class)
    blocks = check_blocks(reduction_loc, len(vit.blocks))
    schedule = stage_class.schedule(keep_rate, blocks, **options)
    stages = [stage_class(spec, **options) for spec in _specs(vit, schedule)]
    _check_blocks(vit, method, stages)
    weight = next(vit.patch_embed.parameters())

    host_class: type = type(vit)
    model = shallow_copy(vit)
    model.__class__ = reduced_class(host_class)
    model.patch_embed = with_product(vit.patch_embed)
    model.stages = nn.ModuleList(stages).to(weight).train(vit.training)
    model.method, model.keep_rate, model.reduction_loc = method, keep_rate, blocks
    return model


def unreduce(model: ReducedVisionTransformer) -> VisionTransformer:
    """Return the plain host of a reduced model, weights shared; the reduced model stays as it is.

    Raises:
        TypeError: `model` is not a reduced model.
    """
    if not isinstance(model, ReducedVisionTransformer):
        raise TypeError(f"model is a {type(model).__name__}, but must be a reduced model")
    host = shallow_copy(model)
    host.__class__ = model.host_class
    host.patch_embed = with_convolution(model.patch_embed)
    for name in ("stages", *_ADDED):
        delattr(host, name)
    return host


def create_model(
    method: str,
    host_name: str,
    *,
    keep_rate: KeepRate = 1.0,
    reduction_loc: Sequence[int] = (3, 6, 9),
    pretrained: bool = False,
    num_classes: int | None = None,
    **kwargs: Any,
) -> ReducedVisionTransformer:
    """Create a timm model by name and reduce it.

    Args:
        method: A name in `reduction.METHODS`.
        host_name: A timm model name, such as `deit_small_patch16_224`.
        keep_rate: See `reduce`.
        reduction_loc: See `reduce`.
        pretrained: Whether timm loads the host's pretrained weights.
        num_classes: Outputs of the head; None leaves it to timm.
        **kwargs: Options of the method go to it, all others to `timm.create_model`.

    Raises:
        TypeError: See `reduce`.
        ValueError: See `reduce`.
    """
    known = method_class(method).options()
    options = {name: value for name, value in kwargs.items() if name in known}
    host_options = {name: value for name, value in kwargs.items() if name not in known}
    if num_classes is not None:
        host_options["num_classes"] = num_classes
    vit = timm.create_model(host_name, pretrained=pretrained, **host_options)
    return reduce(vit, method, keep_rate=keep_rate, reduction_loc=reduction_loc, **options)


def _check_options(method: str, known: dict[str, Any], given: dict[str, Any]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        allowed = f"must be among {', '.join(known)}" if known else "the method has none"
        raise ValueError(f"{method} has no option {', '.join(unknown)}, but {allowed}")
    for name, value in given.items():
        default = known[name]
        number = isinstance(default, float) and type(value) is int
        if type(value) is not type(default) and not number:
            expected = type(default).__name__
            raise TypeError(
                f"option {name} of {method} is {value!r}, but must be of type {expected}"
            )


def _check_host(vit: object, method: str, stage_class: type[Stage]) -> None:
    if not isinstance(vit, VisionTransformer):
        raise TypeError(f"model is a {type(vit).__name__}, but must be a timm VisionTransformer")
    if isinstance(vit, ReducedVisionTransformer):
        raise ValueError(f"model is already reduced by {vit.method}, but must be a plain host")
    if type(vit).forward_features is not VisionTransformer.forward_features:
        raise ValueError(
            f"host is a {type(vit).__name__}, but must walk its blocks as timm's VisionTransformer"
        )
    if stage_class.needs_cls and not vit.has_class_token:
        raise ValueError(f"host has no CLS token, but must have one for {method}")
    if stage_class.needs_grid and isinstance(vit.patch_drop, PatchDropout):
        raise ValueError(f"host has patch dropout, but must keep all patches for {method}")
    if stage_class.pads and vit.global_pool not in ("token", "avg"):
        raise ValueError(
            f"host has global_pool={vit.global_pool!r}, but must have 'token' or 'avg' for "
            f"{method}, whose images keep different numbers of tokens"
        )


def _check_blocks(vit: VisionTransformer, method: str, stages: Sequence[Stage]) -> None:
    for index in sorted(_opened(stages, len(vit.blocks))):
        if index < 0:
            raise ValueError(
                f"reduction_loc starts at block 0, but must start at 1 or later for {method}, "
                "which looks at the attention of the block before"
            )
        block = vit.blocks[index]
        plain_block = type(block).forward is Block.forward
        if not plain_block or type(block.attn).forward is not Attention.forward:
            kind = type(block).__name__ if not plain_block else type(block.attn).__name__
            raise ValueError(
                f"block {index} is built with {kind}, "
                f"but must be timm's Block with Attention for {method}"
            )


def _opened(stages: Sequence[Stage], depth: int) -> set[int]:
    """Blocks whose inside the stages look at or change."""
    if any(stage.masks_in_training for stage in stages):
        return set(range(depth))
    inside = {stage.spec.block for stage in stages if stage.opens_block()}
    return inside | {stage.spec.block - 1 for stage in stages if stage.looks_back}


def _specs(vit: VisionTransformer, schedule: dict[int, float]) -> list[StageSpec]:
    specs = [
        StageSpec(
            index=index,
            blocks=tuple(schedule),
            fractions=tuple(schedule.values()),
            grid=tuple(vit.patch_embed.grid_size),
            dim=vit.embed_dim,
            num_prefix=vit.num_prefix_tokens,
            has_cls=vit.has_class_token,
        )
        for index in range(len(schedule))
    ]
    for spec in specs:
        spec.target(spec.num_patches)  # refuses to leave no tokens
    return specs
