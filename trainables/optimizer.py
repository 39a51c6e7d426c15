"""AdamW over parameter groups: new parts and backbone, with and without weight decay."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainables.recipe import Recipe
from trainables.schedule import learning_rate, scaled_lr

NEW_PARTS = ("head", "stages.", "pos_embed", "patch_embed")
"""Prefixes of the parameters trained at the full rate: the head, a method's own, the embedding."""


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Split the trainable parameters into at most four groups, in order of first appearance.

    Returns:
        Groups with `names` and `params`, `base_lr` and `weight_decay`, and `frozen_epochs`, the
        epochs in which the group's learning rate is 0.
    """
    full_lr = scaled_lr(recipe)
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in _trainable(model):
        new, decays = name.startswith(NEW_PARTS), _decays(name, parameter)
        group = groups.setdefault(
            (new, decays),
            {
                "names": [],
                "params": [],
                "base_lr": full_lr if new else full_lr * recipe.backbone_lr_scale,
                "weight_decay": recipe.weight_decay if decays else 0.0,
                "frozen_epochs": 0 if new else recipe.backbone_freeze_epochs,
            },
        )
        group["names"].append(name)
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Build AdamW over `parameter_groups`; rates are set by `set_learning_rates` before a step."""
    groups = parameter_groups(model, recipe)
    return torch.optim.AdamW(groups, lr=scaled_lr(recipe), eps=1e-8, fused=True)


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


def _trainable(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _decays(name: str, parameter: Tensor) -> bool:
    one_dimensional = parameter.ndim <= 1 or name.endswith(".bias")
    return not one_dimensional and name not in ("pos_embed", "cls_token", "dist_token")
