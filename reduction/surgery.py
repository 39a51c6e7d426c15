"""Turning a timm `VisionTransformer` into a reduced one, and back."""

from collections.abc import Sequence
from typing import Any

import timm
from timm.layers import PatchDropout, PatchDropoutWithIndices
from timm.models import NaFlexVit, VisionTransformer

from reduction.block import with_open
from reduction.hosts import KINDS, host_kind, reduced_class
from reduction.installing import check_reduced, install, make_stages, remember
from reduction.methods import method_class, method_name
from reduction.model import ReducedVisionTransformer
from reduction.patch_projection import shallow_copy, with_convolution, with_product
from reduction.rope import ANGLES
from reduction.schedule import Amount, KeepRate, MethodOptions, Removals, make_schedule
from reduction.stage import Stage, has_cls

DROPOUTS = (PatchDropout, PatchDropoutWithIndices)
_ADDED = ("method", "options", "amount", "reduction_loc", "chose_blocks")


def reduce(
    vit: VisionTransformer,
    method: str | type[Stage],
    *,
    keep_rate: KeepRate | None = None,
    tokens: Sequence[int] | None = None,
    r: Removals | None = None,
    reduction_loc: Sequence[int] | None = None,
    **options: Any,
) -> ReducedVisionTransformer:
    """Return a model that runs `vit` with token reduction; `vit` itself stays as it is.

    The two share parameters and submodules, so that training, moving or switching the mode of
    one does the same to the other. The state dict has timm's names, and `stages.{i}.*` where the
    method learns something. How much to reduce is one of `keep_rate`, `tokens` and `r`; without
    any, every token is kept.

    Args:
        vit: A timm `VisionTransformer`.
        method: A name in `reduction.METHODS`, or a method of your own: a class of stages, or
            `module:Class`, which is imported.
        keep_rate: One cumulative rate in (0, 1], or for each stage the fraction of the original
            patch tokens to keep.
        tokens: For each stage the number of patch tokens to keep.
        r: How many tokens every stage removes, as ToMe spells it: a number, `(number, inflect)`
            with inflect from -1 (linearly from twice the number to none) to 1, or a list.
        reduction_loc: 0-based indices of the blocks that reduce, ascending. By default 3, 6
            and 9; with `r` all blocks.
        **options: The method's own options, see `reduction.METHODS[method].options`.

    Raises:
        TypeError: `vit` is not a timm `VisionTransformer`, or an argument has the wrong type.
        ValueError: The host lacks what the method needs, or an argument is not allowed.
    """
    stage_class, name = method_class(method), method_name(method)
    _check_options(name, stage_class.options(), options)
    _check_kind(vit)
    _check_host(vit, name, stage_class)
    if stage_class.ranks_by_cls(**options) and not has_cls(vit):
        raise ValueError(
            f"host has no CLS token, but must have one for {name} unless score='received'"
        )
    amount = Amount(keep_rate, tokens, r)
    asked = make_schedule(len(vit.blocks), **amount._asdict(), reduction_loc=reduction_loc)
    stages = make_stages(vit, name, stage_class, asked, options)

    host_class: type = type(vit)
    model = shallow_copy(vit)
    model.__class__ = reduced_class(host_class)
    if not isinstance(vit, NaFlexVit):
        model.patch_embed = with_product(vit.patch_embed)
    model.method, model.options = name, options
    install(model, stages)
    model.chose_blocks = reduction_loc is not None
    remember(model, amount, asked)
    return model


def unreduce(model: ReducedVisionTransformer) -> VisionTransformer:
    """Return the plain host of a reduced model, weights shared; the reduced model stays as it is.

    Raises:
        TypeError: `model` is not a reduced model.
    """
    check_reduced(model)
    host = shallow_copy(model)
    host.__class__ = model.host_class
    if not isinstance(host, NaFlexVit):
        host.patch_embed = with_convolution(model.patch_embed)
    host.blocks = with_open(model.blocks, set())
    for name in ("stages", *_ADDED):
        delattr(host, name)
    return host


def create_model(
    method: str | type[Stage],
    host_name: str,
    *,
    keep_rate: KeepRate | None = None,
    tokens: Sequence[int] | None = None,
    r: Removals | None = None,
    reduction_loc: Sequence[int] | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    **kwargs: Any,
) -> ReducedVisionTransformer:
    """Create a timm model by name and reduce it.

    Args:
        method: See `reduce`.
        host_name: A timm model name, such as `deit_small_patch16_224`.
        keep_rate: See `reduce`.
        tokens: See `reduce`.
        r: See `reduce`.
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
    amount = Amount(keep_rate, tokens, r)
    return reduce(vit, method, **amount._asdict(), reduction_loc=reduction_loc, **options)


def _check_options(method: str, known: MethodOptions, given: MethodOptions) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        allowed = f"must be among {', '.join(known)}" if known else "the method has none"
        raise ValueError(f"{method} has no option {', '.join(unknown)}, but {allowed}")
    for name, value in given.items():
        default = known[name]
        number = isinstance(default, float) and type(value) is int
        numbers = isinstance(default, tuple) and isinstance(value, list)
        if type(value) is not type(default) and not number and not numbers:
            expected = type(default).__name__
            raise TypeError(
                f"option {name} of {method} is {value!r}, but must be of type {expected}"
            )


def _check_kind(vit: object) -> None:
    if not isinstance(vit, tuple(KINDS)):
        *others, last = (kind.__name__ for kind in KINDS)
        kinds = f"{', '.join(others)} or {last}"
        raise TypeError(f"model is a {type(vit).__name__}, but must be a timm {kinds}")
    if isinstance(vit, ReducedVisionTransformer):
        raise ValueError(f"model is already reduced by {vit.method}, but must be a plain host")
    if host_kind(type(vit)) is None:
        base = next(kind.__name__ for kind in KINDS if isinstance(vit, kind))
        raise ValueError(
            f"host is a {type(vit).__name__}, but must walk its blocks as timm's {base}"
        )


def _check_host(vit: VisionTransformer, method: str, stage_class: type[Stage]) -> None:
    if stage_class.needs_grid and isinstance(getattr(vit, "patch_drop", None), DROPOUTS):
        raise ValueError(f"host has patch dropout, but must keep all patches for {method}")
    _check_places(vit)
    if stage_class.pads and vit.global_pool in ("", "prr"):
        raise ValueError(
            f"host has global_pool={vit.global_pool!r}, but must have another for {method}, "
            "whose images keep different numbers of tokens"
        )


def _check_places(vit: Any) -> None:
    rope = getattr(vit, "rope", None)
    if rope is None:
        return
    if type(rope) not in ANGLES:
        known = ", ".join(kind.__name__ for kind in ANGLES)
        raise ValueError(f"host has a {type(rope).__name__}, but must have one of {known}")
    if isinstance(vit.patch_drop, PatchDropoutWithIndices):
        raise ValueError("host has patch dropout, but must keep all patches to know their places")
    if rope.aug_active:
        raise ValueError("host moves its positions in training, but must leave them where they are")
