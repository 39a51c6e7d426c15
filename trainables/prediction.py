"""A split's logits, and the number that a dataset's cells are compared by."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from trainables.inference_pass import InferencePass
from trainables.metrics import mean_average_precision, top_k_accuracy
from trainables.precision import autocast


@torch.inference_mode()
def predict(
    passes: Sequence[InferencePass],
    batches: Iterable[Sequence[Tensor]],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[list[Tensor], Tensor]:
    """Run models over the same batches, so that images are decoded once.

    Args:
        passes: Their models are put into evaluation mode.
        batches: Images, targets and indices, on the device.
        device: Where the models are.
        dtype: Autocast's; None for none.

    Returns:
        Logits float32 [M, classes] of each model and the targets, int64 [M] or float32
        [M, classes], all on the CPU.
    """
    for each in passes:
        each.eval()
    logits: list[list[Tensor]] = [[] for _ in passes]
    targets = []
    for images, target, index in batches:
        targets.append(target)
        with autocast(device, dtype):
            for each, outputs in zip(passes, logits, strict=True):
                outputs.append(each.run(images, index)[0].float())
    return [torch.cat(outputs).cpu() for outputs in logits], torch.cat(targets).cpu()


def score(metric: Literal["top1", "map"], logits: Tensor, targets: Tensor) -> float:
    """Return top-1 accuracy or mean average precision, in percent."""
    if metric == "top1":
        return top_k_accuracy(logits, targets, 1)
    return mean_average_precision(logits, targets)[0]
