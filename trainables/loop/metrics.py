"""Accuracy and mean average precision of predictions, in percent."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from trainables.data.base import Metric
from trainables.models.device import autocast
from trainables.models.passes import InferencePass


def top_k_accuracy(logits: Tensor, targets: Tensor, k: int) -> float:
    """Return the percentage of images whose class is among the `k` highest logits.

    Args:
        logits: Float [images, classes].
        targets: int64 class indices [images].
        k: At least 1; more than there are classes counts as all of them.

    Raises:
        ValueError: If there are no images.
    """
    if len(targets) == 0:
        raise ValueError("accuracy of 0 images is asked for, but must be of at least 1")
    highest = logits.topk(min(k, logits.shape[1]), dim=1).indices
    hits = (highest == targets[:, None]).any(dim=1)
    return 100 * hits.double().mean().item()


def average_precision(scores: Tensor, targets: Tensor) -> np.ndarray:
    """Return each class's average precision, in [0, 1], as float64 [classes].

    That is the mean, over the images that show the class, of the precision among all images with
    at least that image's score. A class that no image shows has none: NaN.

    Args:
        scores: Float [images, classes], higher meaning more likely.
        targets: Multi-hot [images, classes] of any type.
    """
    # Takes seconds to import, and most studies never need it.
    from sklearn.metrics import average_precision_score

    score_table = scores.cpu().double().numpy()
    shown = targets.cpu().numpy() > 0
    columns = zip(shown.T, score_table.T, strict=True)
    precision = [
        average_precision_score(*column) if column[0].any() else np.nan for column in columns
    ]
    return np.array(precision)


def mean_average_precision(scores: Tensor, targets: Tensor) -> tuple[float, int]:
    """Return the mean of the classes' average precision, and how many classes have none.

    Args:
        scores: Float [images, classes], higher meaning more likely.
        targets: Multi-hot [images, classes] of any type.

    Returns:
        The mean over the classes that some image shows, in percent, and the number of the other
        classes. (The published study counts those as 0 in the mean.)

    Raises:
        ValueError: If no image shows any class.
    """
    precision = average_precision(scores, targets)
    defined = ~np.isnan(precision)
    if not defined.any():
        raise ValueError("targets show no class, but must show at least one")
    return float(100 * precision[defined].mean()), int((~defined).sum())


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


def score(metric: Metric, logits: Tensor, targets: Tensor) -> float:
    """Return top-1 accuracy or mean average precision, in percent."""
    if metric == "top1":
        return top_k_accuracy(logits, targets, 1)
    return mean_average_precision(logits, targets)[0]
