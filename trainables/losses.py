"""What a cell minimises: the criterion of a recipe and task, and mixing of images before it."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from timm.data.mixup import Mixup
from timm.loss import AsymmetricLossMultiLabel, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor
from torch.nn import functional

from trainables.data.base import Task
from trainables.recipe import Recipe

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Logits float32 [B, classes] and the batch's targets -> a scalar, the mean over the batch."""

LossTerms = dict[str, Tensor]
"""What a batch's loss is the sum of: name -> a float32 scalar, already weighted."""


def build_mixup(recipe: Recipe, task: Task, num_classes: int) -> Mixup | None:
    """Build timm's mixup and CutMix, which also smooths labels, or None where both are off."""
    if task == "multi_label" or not (recipe.mixup or recipe.cutmix):
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        switch_prob=recipe.mixup_switch,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )


def build_criterion(recipe: Recipe, task: Task) -> Criterion:
    """Build the training loss.

    Multi-label targets float32 [B, classes] get the asymmetric loss (Ridnik et al., ICCV 2021),
    summed over classes. The published study also sums it over the batch; AdamW's steps do not
    depend on such a factor, and the mean compares across batch sizes. Single-label targets are
    class indices int64 [B], or probabilities float32 [B, classes] after mixup.
    """
    if task == "multi_label":
        return _asymmetric(recipe, "batchmean")
    if recipe.mixup or recipe.cutmix:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(recipe.label_smoothing)


def keep_rate_penalty(decisions: Sequence[Tensor], keep_rate: float) -> Tensor:
    """Return how far learned decisions are from the keep rate (DynamicViT, Rao et al. 2021).

    The mean over stages s and images of (share of patches kept - keep_rate^(s + 1))^2.

    Args:
        decisions: Of each stage, [B, N0], 1 for a patch kept and 0 for one dropped so far, with
            gradients.
        keep_rate: The cumulative keep rate in (0, 1].
    """
    shares = torch.stack([decision.float().mean(dim=1) for decision in decisions])
    targets = keep_rate ** torch.arange(1, len(decisions) + 1, device=shares.device)
    return (shares - targets[:, None]).square().mean()


def mean_terms(batches: Sequence[LossTerms]) -> LossTerms:
    """Return each term's mean over batches that have the same terms."""
    return {name: torch.stack([terms[name] for terms in batches]).mean() for name in batches[0]}


def image_losses(recipe: Recipe, task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Return each image's loss, float32 [B], on its true target: no mixing, no smoothing.

    Args:
        recipe: Has the parameters of the asymmetric loss.
        task: Kind of the targets.
        logits: Float32 [B, classes].
        targets: Int64 [B], or float32 [B, classes] for several labels.
    """
    if task == "multi_label":
        return _asymmetric(recipe, "none")(logits, targets).sum(dim=1)
    return functional.cross_entropy(logits, targets, reduction="none")


def _asymmetric(recipe: Recipe, over: Literal["batchmean", "none"]) -> AsymmetricLossMultiLabel:
    return AsymmetricLossMultiLabel(
        gamma_neg=recipe.asymmetric_gamma_negative,
        gamma_pos=recipe.asymmetric_gamma_positive,
        clip=recipe.asymmetric_clip,
        reduction=over,
    )
