"""The evaluation of a trained cell: its numbers, and what it did to every image's tokens."""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

import reduction
from reduction.model import ReducedVisionTransformer
from trainables.cell import Cell
from trainables.cell_data import CellData
from trainables.compiling import Compiling
from trainables.device_batches import DeviceBatches
from trainables.host import build_model
from trainables.inference_pass import InferencePass
from trainables.losses import image_losses
from trainables.metrics import mean_average_precision, top_k_accuracy
from trainables.precision import autocast, autocast_dtype
from trainables.spooling import SpooledArrays

BATCH_SIZE = 128
"""Images a forward pass; the same for all cells, whose throughput and memory are compared."""
WARMUP_BATCHES, TIMED_BATCHES = 2, 9
TOP = 5
"""Classes of each image that the predictions name."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is known of a trained cell; M images, N0 patches, C features.

    Attributes:
        metrics: Plain numbers and words. Rates of correct answers are in percent, `tokens` is the
            mean number of patch tokens after each stage block (keys are strings), `gmacs` and
            `gflops` are an image's. `images_per_second` is the median over repeated batches on
            the device, of the compiled model if `compiled`; `peak_memory_mb` (2^20 bytes) what the
            GPU's allocator needed for them, None on a CPU, where a process has no such peak of
            its own.
        patterns: `image` int32 [M] index in the split, `grid` int64 [2] rows and columns of
            patches, `depth` () blocks; for each stage block l `tokens_l` int16 [M] and, where the
            method has them, `kept_l` [M, K] patch indices in sequence order and `group_l`
            [M, N0], both uint8 (uint16 from 255 patches on). Padding and fused tokens in `kept_l`
            are the type's maximum.
        features: `cls_l` float32 [M, C], the CLS token after each stage block and the last block;
            in temporary files rather than in memory.
        predictions: A row an image: `image`, `target`, `loss` and, for a single label, `class_i`
            and `score_i` (probability), the i-th most likely class; for several labels, `target`
            lists class indices and `scores` the probability of every class.
        notes: Lines on what does not go as the recipe says.
    """

    metrics: dict[str, Any]
    patterns: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    predictions: pd.DataFrame
    notes: tuple[str, ...]


def evaluate_cell(
    cell: Cell,
    weights: Mapping[str, Tensor],
    *,
    data_root: Path | None,
    host_weights: Path | None = None,
    index_folder: Path | None = None,
    device: torch.device,
    threads: int,
    batch_size: int = BATCH_SIZE,
) -> Evaluation:
    """Run a cell's weights over its dataset's evaluation split, once.

    Args:
        cell: The cell the weights belong to.
        weights: State dict of its model.
        data_root: The dataset's folder; None for an embedded dataset.
        host_weights: Folder of the hosts' pretrained weights, see `HostSource.find`.
        index_folder: Where indices of datasets are kept; None keeps none.
        device: Where to run.
        threads: CPU threads of PyTorch in this process.
        batch_size: Images a forward pass.

    Raises:
        RuntimeError: If the weights do not fit the cell's model.
    """
    torch.set_num_threads(threads)
    recipe, data = cell.recipe, CellData(cell, data_root, host_weights, index_folder)
    dataset, batches = data.dataset, iter(data.eval_batches(data.dataset.val, batch_size))
    model = build_model(cell, len(dataset.class_names), pretrained=False, weights=host_weights)
    model.load_state_dict(weights)
    model.to(device).eval()
    dtype = autocast_dtype(recipe, device)
    notes: list[str] = []
    compiling = Compiling.of(cell, model, "evaluates", notes.append)
    with torch.inference_mode():
        first = next(batches)  # As the others are: compiled code is for tensors of one kind.
    arriving = DeviceBatches(chain([first], batches), device, data.normalise)
    traced = InferencePass(model, traced=True, compiling=compiling)
    found, features = _run(traced, arriving, device, dtype)
    images, _, index = data.normalise([tensor.to(device) for tensor in first])
    speed = _speed(InferencePass(model, compiling=compiling), images, index, dtype)
    describe = _multi_label if dataset.task == "multi_label" else _single_label
    scores, columns = describe(found["logits"], found["target"])
    losses = image_losses(recipe, dataset.task, found["logits"], found["target"])
    metrics = {
        "metric": dataset.metric,
        "accuracy": scores[dataset.metric],
        **scores,
        "loss": losses.double().mean().item(),
        "images": len(losses),
        **_cost(model, found),
        **speed,
        "compiled": compiling.on,
        "select_on": recipe.select_on,
        "family": reduction.METHODS[cell.method].family,
    }
    predictions = {"image": found["image"].numpy(), **columns, "loss": losses.numpy()}
    return Evaluation(
        metrics=metrics,
        patterns=_patterns(model, found),
        features=features,
        predictions=pd.DataFrame(predictions),
        notes=tuple(notes),
    )


@torch.inference_mode()
def _run(
    traced: InferencePass,
    batches: Iterable[Sequence[Tensor]],
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Run all batches; return what there is of every image by name, and its features.

    Logits, targets and patterns stay on the device to the end; features, which are large, do not.
    """
    found = []
    with SpooledArrays() as features:
        for images, targets, index in batches:
            with autocast(device, dtype):
                logits, patterns, cls = traced.run(images, index)
            found.append({"logits": logits.float(), "target": targets, "image": index, **patterns})
            features.add(cls)
        joined = {name: _joined([batch[name] for batch in found]).cpu() for name in found[0]}
        return joined, features.arrays()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along images; narrower parts, of fewer tokens, are padded with -1."""
    if parts[0].ndim < 2:
        return torch.cat(tuple(parts))
    width = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(p, (0, width - p.shape[1]), value=-1) for p in parts])


def _arrays(found: Mapping[str, Tensor], prefix: str) -> dict[str, np.ndarray]:
    return {name: found[name].numpy() for name in found if name.startswith(prefix)}


def _patterns(
    model: ReducedVisionTransformer, found: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    grid = model.patch_embed.grid_size
    # The cast turns -1 into the unsigned type's maximum.
    smallest = np.uint8 if grid[0] * grid[1] < 255 else np.uint16
    indices = _arrays(found, "kept_") | _arrays(found, "group_")
    return {
        "image": found["image"].numpy().astype(np.int32),
        "grid": np.array(grid, dtype=np.int64),
        "depth": np.array(len(model.blocks), dtype=np.int64),
        **_arrays(found, "tokens_"),
        **{name: values.astype(smallest) for name, values in indices.items()},
    }


def _single_label(logits: Tensor, targets: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics, and the columns with the most likely classes of every image."""
    best = logits.softmax(dim=1).topk(min(TOP, logits.shape[1]), dim=1)
    columns = {"target": targets.numpy()}
    for rank, (classes, scores) in enumerate(zip(best.indices.T, best.values.T, strict=True), 1):
        columns |= {f"class_{rank}": classes.numpy(), f"score_{rank}": scores.numpy()}
    metrics = {
        "top1": top_k_accuracy(logits, targets, 1),
        "top5": top_k_accuracy(logits, targets, 5),
    }
    return metrics, columns


def _multi_label(logits: Tensor, targets: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics, and the columns with all labels and scores of every image."""
    mean, undefined = mean_average_precision(logits, targets)
    labels = [row.nonzero()[0] for row in targets.numpy()]
    columns = {"target": labels, "scores": list(logits.sigmoid().numpy())}
    return {"map": mean, "classes_without_positives": undefined}, columns


def _cost(model: ReducedVisionTransformer, found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the real token counts and the work that follows from them."""
    tokens = {
        int(name.removeprefix("tokens_")): counts
        for name, counts in found.items()
        if name.startswith("tokens_")
    }
    cost = reduction.flops(model, tokens)
    return {
        "tokens": {str(block): counts.double().mean().item() for block, counts in tokens.items()},
        "gmacs": cost.macs / 1e9,
        "gflops": cost.flops / 1e9,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


@torch.inference_mode()
def _speed(
    untraced: InferencePass, images: Tensor, index: Tensor, dtype: torch.dtype | None
) -> dict[str, float | None]:
    """Run a batch repeatedly, without data loading and trace; return speed and memory."""
    on_gpu = images.is_cuda
    seconds = []
    for number in range(WARMUP_BATCHES + TIMED_BATCHES):
        if on_gpu and number == WARMUP_BATCHES:  # What compiling takes does not count.
            torch.cuda.reset_peak_memory_stats(images.device)
        started = time.perf_counter()
        with autocast(images.device, dtype):
            untraced.run(images, index)
        if on_gpu:
            torch.cuda.synchronize(images.device)
        seconds.append(time.perf_counter() - started)
    return {
        "images_per_second": len(images) / statistics.median(seconds[WARMUP_BATCHES:]),
        "peak_memory_mb": (
            torch.cuda.max_memory_allocated(images.device) / 2**20 if on_gpu else None
        ),
    }
