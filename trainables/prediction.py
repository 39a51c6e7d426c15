"""A split's logits, and the number that a dataset's cells are compared by."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from reduction.model import ReducedVisionTransformer
from trainables.metrics import mean_average_precision, top_k_accuracy
from trainables.precision import autocast


@torch.inference_mode()
def predict(
    models: Sequence[ReducedVisionTransformer],
    batches: Iterable[Sequence[Tensor]],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[list[Tensor], Tensor]:
    """Run models over the same batches, so that images are decoded once.

    Args:
        models: Are put into evaluation mode.
        batches: Images, targets and indices, on the device.
        device: Where the models are.
        dtype: Autocast's; None for none.

    Returns:
        Logits float32 [M, classes] of each model and the targets, int64 [M] or float32
        [M, classes], all on the CPU.
    """
    for model in models:
        model.eval()
    logits: list[list[Tensor]] = [[] for _ in models]
    targets = []
    for images, target, index in batches:
        targets.append(target)
        with autocast(device, dtype):
            for model, outputs in zip(models, logits, strict=True):
                outputs.append(model(images, image_index=index).float())
    return [torch.cat(outputs).cpu() for outputs in logits], torch.cat(targets).cpu()


def score(metric: Literal["top1", "map"], logits: Tensor, targets: Tensor) -> float:
    """Return top-1 accuracy or mean average precision, in percent."""
    if metric == "top1":
        return top_k_accuracy(logits, targets, 1)
    return mean_average_precision(logits, targets)[0]
