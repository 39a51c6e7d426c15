"""The loss of a cell on a batch, as named terms that add up to it."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from timm.data.mixup import Mixup
from timm.loss import AsymmetricLossMultiLabel, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor
from torch.nn import functional

from reduction.trace import ReductionTrace
from trainables.cell.cell import Cell
from trainables.data.base import Task
from trainables.models.distillation import (
    TeacherOutput,
    direction_loss,
    hard_label_loss,
    kept_tokens_loss,
    soft_label_loss,
)
from trainables.models.passes import PassOutput
from trainables.recipe import Recipe

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Logits float32 [B, classes] and the batch's targets -> a scalar, the mean over the batch."""

LossTerms = dict[str, Tensor]
"""The terms of a batch's loss: name -> a float32 scalar, already weighted."""


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


CONFIDENT = 0.4
"""Probability of its labels from which on an image takes part in `consistency_loss`."""


def consistency_loss(
    features: Tensor, fuller: Tensor, logits: Tensor, targets: Tensor, task: Task
) -> Tensor:
    """Return how far a pass is from one that reduces less, where it is sure of the labels.

    The mean over those images of the mean squared difference, in float32; 0 where there are none
    (Lee et al., MCTF, CVPR 2024).

    Args:
        features: [B, C] what the head classifies.
        fuller: The same of the pass that reduces less, [B, C]; it gets no gradient.
        logits: [B, classes] of the first pass.
        targets: Int64 [B], or probabilities or several labels as float32 [B, classes].
        task: Kind of the targets.
    """
    confident = (_label_probability(logits.detach().float(), targets, task) > CONFIDENT).float()
    distances = (features.float() - fuller.detach().float()).square().mean(dim=1)
    return (distances * confident).sum() / confident.sum().clamp(min=1)


def _label_probability(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Return the probability [B] of an image's label, or of both that are mixed, together."""
    if task == "multi_label":  # the mean over its labels
        return (logits.sigmoid() * targets).sum(dim=1) / targets.sum(dim=1).clamp(min=1)
    probabilities = logits.softmax(dim=1)
    if targets.ndim == 1:
        return probabilities.gather(1, targets[:, None])[:, 0]
    # Smoothing gives every class the same least share.
    return (probabilities * (targets > targets.amin(dim=1, keepdim=True))).sum(dim=1)


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


def mean_loss(recipe: Recipe, task: Task, logits: Tensor, targets: Tensor) -> float:
    """Return the mean over images of `image_losses`."""
    return image_losses(recipe, task, logits, targets).double().mean().item()


def _asymmetric(recipe: Recipe, over: Literal["batchmean", "none"]) -> AsymmetricLossMultiLabel:
    return AsymmetricLossMultiLabel(
        gamma_neg=recipe.asymmetric_gamma_negative,
        gamma_pos=recipe.asymmetric_gamma_positive,
        clip=recipe.asymmetric_clip,
        reduction=over,
    )


class Objective:
    """The loss of a cell.

    Args:
        cell: Names the terms and their weights.
        task: Kind of the targets.
    """

    def __init__(self, cell: Cell, task: Task) -> None:
        self._cell = cell
        self._task = task
        self._criterion = build_criterion(cell.recipe, task)

    def __call__(
        self,
        output: PassOutput,
        taught: TeacherOutput | None,
        targets: Tensor,
    ) -> LossTerms:
        """Return the terms of a batch's loss.

        Their names are `classification` and, where the method or the recipe has them, `keep rate`,
        `auxiliary heads`, `token cut`, `FLOPs`, `fuller pass`, `consistency`, `teacher's logits`,
        `teacher's tokens` and `teacher's direction`.

        Args:
            output: Of the pass.
            taught: The teacher's output for the same images, None without a teacher.
            targets: What the recipe's criterion takes.
        """
        own, distilled = _heads(output)
        terms = {"classification": self._criterion(own, targets)}
        terms |= self._method_terms(output, targets)
        if taught is None:
            return terms
        if distilled is not None:
            return self._deit(terms, distilled, taught)
        if self._cell.recipe.distillation == "idlevit":
            return self._idlevit(terms, own, output.trace, taught)
        return self._dynamicvit(terms, own, output.trace, taught)

    def _method_terms(self, output: PassOutput, targets: Tensor) -> LossTerms:
        """Return what the method's own training adds."""
        terms: LossTerms = {}
        trace, recipe = output.trace, self._cell.recipe
        if trace is None:
            return terms
        if trace.decisions:
            if self._cell.keep_rate is None:
                raise ValueError(f"{self._cell.method} learns to meet a keep rate: give it one")
            penalty = keep_rate_penalty(list(trace.decisions.values()), self._cell.keep_rate)
            terms["keep rate"] = recipe.keep_rate_weight * penalty
        learning = trace.learning.values()
        if heads := [x for each in learning if (x := each.auxiliary_logits) is not None]:
            losses = [self._criterion(logits.float(), targets) for logits in heads]
            terms["auxiliary heads"] = torch.stack(losses).sum()
        if cuts := [x for each in learning if (x := each.cut_loss) is not None]:
            terms["token cut"] = recipe.token_cut_weight * torch.stack(cuts).mean()
        if output.excess_macs is not None:
            giga = output.excess_macs / 1e9
            terms["FLOPs"] = recipe.flops_weight * giga.square()
        if output.fuller is not None:
            terms |= self._beside_fuller(output, output.fuller, targets)
        return terms

    def _beside_fuller(self, output: PassOutput, fuller: PassOutput, targets: Tensor) -> LossTerms:
        """Return the loss of the pass that reduces less, and how far the other is from it."""
        assert output.trace is not None
        assert fuller.trace is not None
        features, example = output.trace.pooled, fuller.trace.pooled
        assert features is not None
        assert example is not None
        own, _ = _heads(output)
        distance = consistency_loss(features, example, own, targets, self._task)
        return {
            "fuller pass": self._criterion(_heads(fuller)[0], targets),
            "consistency": self._cell.recipe.consistency_weight * distance,
        }

    def _idlevit(
        self, terms: LossTerms, logits: Tensor, trace: ReductionTrace | None, taught: TeacherOutput
    ) -> LossTerms:
        """Add both distances of IdleViT (Xu et al., AJCAI 2023)."""
        if trace is None or trace.pooled is None or taught.pooled is None:
            raise TypeError("IdleViT's loss needs the features that both networks classify")
        recipe = self._cell.recipe
        direction = direction_loss(trace.pooled, taught.pooled)
        divergence = soft_label_loss(logits, taught.logits)
        return terms | {
            "teacher's logits": recipe.teacher_logits_weight * divergence,
            "teacher's direction": recipe.teacher_direction_weight * direction,
        }

    def _deit(self, terms: LossTerms, distilled: Tensor, taught: TeacherOutput) -> LossTerms:
        """Blend in the loss of the distillation head (Touvron et al., ICML 2021)."""
        recipe = self._cell.recipe
        if recipe.distillation == "soft":
            loss = soft_label_loss(distilled, taught.logits, recipe.distillation_tau)
        else:
            loss = hard_label_loss(distilled, taught.logits)
        share = recipe.distillation_alpha
        return terms | {
            "classification": (1 - share) * terms["classification"],
            "teacher's logits": share * loss,
        }

    def _dynamicvit(
        self, terms: LossTerms, logits: Tensor, trace: ReductionTrace | None, taught: TeacherOutput
    ) -> LossTerms:
        """Add both distances of DynamicViT (Rao et al., NeurIPS 2021)."""
        if trace is None or trace.features is None or taught.patches is None:
            raise TypeError("DynamicViT's loss needs decisions and both networks' patch tokens")
        recipe, kept = self._cell.recipe, list(trace.decisions.values())[-1]
        distance = kept_tokens_loss(
            trace.features, taught.patches, kept, recipe.teacher_tokens_loss
        )
        divergence = soft_label_loss(logits, taught.logits)
        return terms | {
            "classification": recipe.classification_weight * terms["classification"],
            "teacher's logits": recipe.teacher_logits_weight * divergence,
            "teacher's tokens": recipe.teacher_tokens_weight * distance,
        }


def _heads(output: PassOutput) -> tuple[Tensor, Tensor | None]:
    """Return a pass's logits in float32, and those of a distillation head that is trained apart."""
    if isinstance(output.logits, tuple):
        own, distilled = output.logits
        return own.float(), distilled
    return output.logits.float(), None
