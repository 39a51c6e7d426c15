"""The one forward pass of training, as a module of its own, so that DDP sees every pass."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from reduction.cost import HostCost
from reduction.installing import rescheduled
from reduction.model import ReducedVisionTransformer, stages_by_block
from reduction.schedule import make_schedule
from reduction.trace import ReductionTrace
from trainables.models.compiling import Compiling


@dataclass(frozen=True)
class PassOutput:
    """What a training pass finds for a batch."""

    logits: Tensor | tuple[Tensor, Tensor]
    """[B, classes]; two of them where a distillation head is trained apart."""
    trace: ReductionTrace | None = None
    """Of the pass, where the method's loss needs it."""
    fuller: "PassOutput | None" = None
    """Of the pass that reduces less, where the method trains beside one."""
    excess_macs: Tensor | None = None
    """Scalar, multiply-accumulates of an image above those that the keep rate asks for, with the
    gradient of learned numbers of tokens, where the method has these."""


class ExcessCost:
    """How much more a model with learned numbers of tokens computes than it was asked for.

    What is asked for is the cost of the host with the numbers that `keep_rate`, `tokens` or `r`
    name at its blocks.

    Args:
        model: A reduced model.
    """

    def __init__(self, model: ReducedVisionTransformer) -> None:
        self._cost = HostCost(model)
        asked = make_schedule(
            len(model.blocks), **model.amount._asdict(), reduction_loc=model.reduction_loc
        )
        targets = asked.targets(model.patch_embed.num_patches)
        prefix = model.num_prefix_tokens
        counts = {block: prefix + n for block, n in zip(asked.blocks, targets, strict=True)}
        self.asked = self._cost(counts)

    def of(self, trace: ReductionTrace) -> Tensor:
        """Return the multiply-accumulates of an image above those, a scalar."""
        learning = trace.learning.items()
        counts = {block: each.count for block, each in learning if each.count is not None}
        excess: Tensor = self._cost(counts) - self.asked
        return excess


FULLER_REMOVALS = 8
"""A fuller pass removes fewer tokens than this at each stage (Lee et al., MCTF, CVPR 2024)."""


class TrainingPass(nn.Module):
    """Calls a reduced model as training needs it.

    Args:
        model: Images float32 [B, 3, H, W] to logits.
        pooled: Also return the features that the head classifies, in the trace.
    """

    def __init__(self, model: ReducedVisionTransformer, *, pooled: bool = False) -> None:
        super().__init__()
        self.model = model
        beside_fuller = any(stage.trains_beside_fuller for stage in model.stages)
        self._pooled = pooled or beside_fuller
        self._traced = self._pooled or any(stage.hands_to_loss for stage in model.stages)
        learns_counts = any(stage.learns_counts for stage in model.stages)
        self._excess = ExcessCost(model) if learns_counts else None
        # They share the model's parameters: as a plain list, they are no second set of them.
        removals = range(FULLER_REMOVALS if beside_fuller else 0)
        self._fuller = [rescheduled(model, removal) for removal in removals]

    def forward(self, images: Tensor) -> PassOutput:
        """Return what the loss needs of images, [B, 3, H, W]."""
        output = self._run(self.model, images)
        if self._excess is not None and output.trace is not None:
            return replace(output, excess_macs=self._excess.of(output.trace))
        if not self._fuller:
            return output
        # The training loop seeds this generator for every batch. Reading a tensor would wait.
        drawn = np.random.randint(len(self._fuller))  # noqa: NPY002
        return replace(output, fuller=self._run(self._fuller[drawn], images))

    def _run(self, model: ReducedVisionTransformer, images: Tensor) -> PassOutput:
        if self._traced:
            return PassOutput(*model.forward_with_trace(images, pooled=self._pooled))
        return PassOutput(model(images))


def leaves_out_parameters(model: ReducedVisionTransformer) -> bool:
    """Tell whether a stage with parameters may have nothing to reduce and so leave them unused."""
    patches = model.patch_embed.num_patches
    specs = [stage.spec for stage in stages_by_block(model).values()]
    idle = any(spec.target(patches) >= spec.target_before(patches) for spec in specs)
    return idle and any(True for _ in model.stages.parameters())


Result = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


class InferencePass(nn.Module):
    """Calls a reduced model as evaluations need it.

    Args:
        model: Images float32 [B, 3, H, W] to logits.
        traced: Also return what happened to the tokens.
        compiling: Compiles the pass; None leaves it as it is.
    """

    def __init__(
        self,
        model: ReducedVisionTransformer,
        *,
        traced: bool = False,
        compiling: Compiling | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._traced = traced
        self._compiling = compiling
        self._batch: int | None = None
        if compiling is not None:
            compiling.add(self)

    def forward(self, images: Tensor, index: Tensor) -> Result:
        """Return the logits and, where traced, patterns and features by name.

        Args:
            images: [B, 3, H, W].
            index: [B] integers, each image's number in its split.

        Returns:
            Logits [B, classes]; `tokens_l`, `kept_l` and `group_l` after block l, int16; `cls_l`,
            float32 [B, C].
        """
        if not self._traced:
            return self.model(images, image_index=index), {}, {}
        logits, trace = self.model.forward_with_trace(images, image_index=index)
        features = {f"cls_{block}": cls.float() for block, cls in trace.cls.items()}
        return logits, _patterns_by_name(trace), features

    def run(self, images: Tensor, index: Tensor) -> Result:
        """Return what `forward` does, compiled if that is asked for and works."""
        if self._compiling is None:
            return self.forward(images, index)
        self._batch = self._batch or len(images)
        if len(images) != self._batch:
            # The last of a split: to compile its size, too, takes longer than to go without.
            return self.forward(images, index)
        return self._compiling.attempt(partial(self, images, index))


def _patterns_by_name(trace: ReductionTrace) -> dict[str, Tensor]:
    """Return a batch's counts and indices by name, as small as they can stay on the device."""
    integers = {"tokens": trace.tokens, "kept": trace.kept, "group": trace.groups}
    return {
        f"{kind}_{block}": values.to(torch.int16)
        for kind, by_block in integers.items()
        for block, values in by_block.items()
    }
