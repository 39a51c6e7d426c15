"""The one forward pass of training, as a module of its own, so that DDP sees every pass."""

from torch import Tensor, nn

from reduction.model import ReducedVisionTransformer, stages_by_block
from reduction.trace import ReductionTrace


class TrainingPass(nn.Module):
    """Calls a reduced model as training needs it.

    Args:
        model: Images float32 [B, 3, H, W] to logits.
    """

    def __init__(self, model: ReducedVisionTransformer) -> None:
        super().__init__()
        self.model = model
        self._traced = any(stage.masks_in_training for stage in model.stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ReductionTrace | None]:
        """Return the logits and, where stages learn their decisions, the trace."""
        if self._traced:
            return self.model.forward_with_trace(images)
        return self.model(images), None


def leaves_out_parameters(model: ReducedVisionTransformer) -> bool:
    """Tell whether a stage with parameters may have nothing to reduce and so leave them unused."""
    patches = model.patch_embed.num_patches
    specs = [stage.spec for stage in stages_by_block(model).values()]
    idle = any(spec.target(patches) >= spec.target_before(patches) for spec in specs)
    return idle and any(True for _ in model.stages.parameters())
