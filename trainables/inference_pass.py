"""The one forward pass of evaluations, as a module of its own, so that it can be compiled."""

from functools import partial

import torch
from torch import Tensor, nn

from reduction import ReductionTrace
from reduction.model import ReducedVisionTransformer
from trainables.compiling import Compiling

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
