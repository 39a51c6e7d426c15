"""AdamW over parameter groups: new parts and backbone, with and without weight decay."""

import math
from collections.abc import Iterable
from typing import TypedDict

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from reduction.model import ReducedVisionTransformer
from trainables.recipe import Recipe


def scaled_lr(recipe: Recipe) -> float:
    """Return the recipe's learning rate for its effective batch, linearly scaled."""
    return recipe.lr * (recipe.batch_size * recipe.accumulation) / recipe.lr_reference_batch


def learning_rate(
    step: int, *, recipe: Recipe, steps_per_epoch: int, base_lr: float, frozen_epochs: int = 0
) -> float:
    """Return the learning rate that optimiser step `step` uses.

    It rises linearly from `recipe.warmup_lr` towards `base_lr`, then follows a cosine over all
    steps to `recipe.min_lr`. As in the published study, the warm-up replaces the start of the
    cosine, so the rate drops at its end. With `recipe.warmup_prefix` the cosine starts there.

    Args:
        step: Optimiser steps before this one.
        recipe: Has the lengths in epochs and the absolute rates at both ends.
        steps_per_epoch: Optimiser steps in an epoch.
        base_lr: The parameter group's rate, where warm-up and cosine meet.
        frozen_epochs: Epochs from the start in which the rate is 0.
    """
    if step < frozen_epochs * steps_per_epoch:
        return 0.0
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.warmup_lr + step * (base_lr - recipe.warmup_lr) / warmup
    total = recipe.epochs * steps_per_epoch
    if recipe.warmup_prefix:
        step, total = step - warmup, total - warmup
    return recipe.min_lr + 0.5 * (base_lr - recipe.min_lr) * (1 + math.cos(math.pi * step / total))


HEAD = "head"
NEW_PARTS = (HEAD, "stages.")
"""Prefixes of parameters that train at rates of their own: the head's and the method's."""
EMBEDDINGS = ("pos_embed", "patch_embed")
"""Prefixes of parameters that train as the backbone or as the head, as the recipe says."""


class ParameterGroup(TypedDict):
    """Parameters of a model that are trained alike."""

    names: list[str]
    params: list[nn.Parameter]
    base_lr: float
    """Learning rate between warm-up and cosine."""
    weight_decay: float
    frozen_epochs: int
    """Epochs in which the learning rate is 0."""


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[ParameterGroup]:
    """Split the trainable parameters by how they train, in order of first appearance.

    Without `layer_decay` and `head_lr_scale` there are at most four groups: backbone and others,
    with weight decay and without.
    """
    full_lr, layer_scales = scaled_lr(recipe), _layer_scales(model, recipe)
    undecayed = _without_decay(model)
    groups: dict[tuple[bool, bool, float], ParameterGroup] = {}
    for name, parameter in _trainable(model):
        backbone = _is_backbone(name, recipe)
        decays = name not in undecayed and _decays(name, parameter)
        scale = layer_scales.get(name, 1.0) if backbone else 1.0
        if name.startswith(HEAD):
            scale = recipe.head_lr_scale
        group = groups.setdefault(
            (backbone, decays, scale),
            {
                "names": [],
                "params": [],
                "base_lr": full_lr * scale * (recipe.backbone_lr_scale if backbone else 1.0),
                "weight_decay": recipe.weight_decay if decays else 0.0,
                "frozen_epochs": recipe.backbone_freeze_epochs if backbone else 0,
            },
        )
        group["names"].append(name)
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Build AdamW over `parameter_groups`; rates are set by `set_learning_rates` before a step."""
    groups = parameter_groups(model, recipe)
    return torch.optim.AdamW(
        [dict(group) for group in groups], lr=scaled_lr(recipe), eps=1e-8, fused=True
    )


def set_learning_rates(
    optimizer: torch.optim.Optimizer, step: int, *, recipe: Recipe, steps_per_epoch: int
) -> float:
    """Set every group's rate for optimiser step `step`; return the highest."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(
            step,
            recipe=recipe,
            steps_per_epoch=steps_per_epoch,
            base_lr=group["base_lr"],
            frozen_epochs=group["frozen_epochs"],
        )
    return max(group["lr"] for group in optimizer.param_groups)


def _is_backbone(name: str, recipe: Recipe) -> bool:
    if name.startswith(EMBEDDINGS):
        return recipe.embeddings_follow_backbone
    return not name.startswith(NEW_PARTS)


def _layer_scales(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    """Return each parameter's rate relative to the last layer's, by timm's order of layers.

    Bao et al., BEiT, ICLR 2022. Empty without `layer_decay`.
    """
    if recipe.layer_decay is None:
        return {}
    matcher = model.group_matcher(coarse=False)  # type: ignore[operator]
    layers: dict[str, int] = group_parameters(model, matcher, reverse=True)
    last = max(layers.values())
    return {name: recipe.layer_decay ** (last - layer) for name, layer in layers.items()}


def _trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _without_decay(model: nn.Module) -> set[str]:
    """Return the parameters that take no weight decay by the published study or the host's class.

    What a method's class names is left out: the study's methods decayed all of their own.
    """
    always = {"pos_embed", "cls_token", "dist_token"}
    if not isinstance(model, ReducedVisionTransformer):
        return always
    return always | {name for name in model.no_weight_decay() if not name.startswith("stages.")}


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and not name.endswith(".bias")
