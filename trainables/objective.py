"""What a cell minimises on a batch, as named terms whose sum is the loss."""

from torch import Tensor

from reduction.trace import ReductionTrace
from trainables.cell import Cell
from trainables.data.base import Task
from trainables.distillation import Lesson, hard_label_loss, kept_tokens_loss, soft_label_loss
from trainables.losses import LossTerms, build_criterion, keep_rate_penalty


class Objective:
    """The loss of a cell.

    Args:
        cell: Names the terms and their weights.
        task: Kind of the targets.
    """

    def __init__(self, cell: Cell, task: Task) -> None:
        self._cell = cell
        self._criterion = build_criterion(cell.recipe, task)

    def __call__(
        self,
        logits: Tensor | tuple[Tensor, Tensor],
        trace: ReductionTrace | None,
        lesson: Lesson | None,
        targets: Tensor,
    ) -> LossTerms:
        """Return the terms of a batch's loss.

        They are `classification`, and where there are such `keep rate`, `teacher's logits` and
        `teacher's tokens`.

        Args:
            logits: [B, classes]; two of them where a distillation head is trained apart.
            trace: Of the pass, where stages learn their decisions.
            lesson: What the teacher makes of the same images, where there is one.
            targets: What the recipe's criterion takes.
        """
        own, distilled = logits if isinstance(logits, tuple) else (logits, None)
        terms = {"classification": self._criterion(own.float(), targets)}
        if trace is not None:
            penalty = keep_rate_penalty(list(trace.decisions.values()), self._cell.keep_rate)
            terms["keep rate"] = self._cell.recipe.keep_rate_weight * penalty
        if lesson is None:
            return terms
        if distilled is not None:
            return self._deit(terms, distilled, lesson)
        return self._dynamicvit(terms, own, trace, lesson)

    def _deit(self, terms: LossTerms, distilled: Tensor, lesson: Lesson) -> LossTerms:
        """Blend in the loss of the distillation head (Touvron et al., ICML 2021)."""
        recipe = self._cell.recipe
        if recipe.distillation == "soft":
            loss = soft_label_loss(distilled, lesson.logits, recipe.distillation_tau)
        else:
            loss = hard_label_loss(distilled, lesson.logits)
        share = recipe.distillation_alpha
        return terms | {
            "classification": (1 - share) * terms["classification"],
            "teacher's logits": share * loss,
        }

    def _dynamicvit(
        self, terms: LossTerms, logits: Tensor, trace: ReductionTrace | None, lesson: Lesson
    ) -> LossTerms:
        """Add both distances of DynamicViT (Rao et al., NeurIPS 2021)."""
        if trace is None or trace.features is None or lesson.patches is None:
            raise TypeError("DynamicViT's loss needs decisions and both networks' patch tokens")
        recipe, kept = self._cell.recipe, list(trace.decisions.values())[-1]
        distance = kept_tokens_loss(
            trace.features, lesson.patches, kept, recipe.teacher_tokens_loss
        )
        divergence = soft_label_loss(logits, lesson.logits)
        return terms | {
            "classification": recipe.classification_weight * terms["classification"],
            "teacher's logits": recipe.teacher_logits_weight * divergence,
            "teacher's tokens": recipe.teacher_tokens_weight * distance,
        }
