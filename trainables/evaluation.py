"""The evaluation of a trained cell: its numbers, and what it did to every image's tokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

import reduction
from reduction.model import ReducedVisionTransformer
from reduction.schedule import make_schedule
from trainables.cell.cell import Cell
from trainables.cell.json_records import Metrics
from trainables.loop.data import CellData
from trainables.loop.device_batches import DeviceBatches
from trainables.loop.embedding import compare
from trainables.loop.metrics import mean_average_precision, top_k_accuracy
from trainables.loop.objective import image_losses
from trainables.models.compiling import Compiling
from trainables.models.device import autocast, autocast_dtype
from trainables.models.host import build_model
from trainables.models.passes import InferencePass
from trainables.spooling import SpooledArrays

BATCH_SIZE = 128
"""Images a forward pass."""
TOP = 5
"""Classes of each image that the predictions name."""
LOW = 0.05
"""Of the images' cosines, this share is below `cosine_p5`."""


Columns = dict[str, np.ndarray | list[np.ndarray]]
"""Columns of the table of predictions, a value or an array an image."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is known of a trained cell; M images, N0 patches, C features.

    Attributes:
        metrics: Plain numbers and words. Rates of correct answers are in percent, `tokens` is the
            mean number of patch tokens after each stage block (keys are strings), `gmacs` and
            `gflops` are an image's; `compiled` tells whether the passes were.
        patterns: `image` int32 [M] index in the split, `grid` int64 [2] rows and columns of
            patches, `depth` () blocks; for each stage block l `tokens_l` int16 [M] and, where the
            method has them, `kept_l` [M, K] patch indices in sequence order and `group_l`
            [M, N0], both uint8 (uint16 from 255 patches on). Padding and fused tokens in `kept_l`
            are the type's maximum.
        features: `cls_l` float32 [M, C], the CLS token after each stage block and the last block;
            of an embedding `pooled`, too; in temporary files rather than in memory.
        predictions: A row an image: `image`, `target`, `loss` and, for a single label, `class_i`
            and `score_i` (probability), the i-th most likely class; for several labels, `target`
            lists class indices and `scores` the probability of every class. Of an embedding
            `cosine` and `neighbours` (see `trainables.loop.embedding.Likeness`), no loss, and where
            there are labels `target` and `class_1`, that of most of the nearest images.
        notes: Lines on what does not go as the recipe says.
    """

    metrics: Metrics
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
    embeds = dataset.task == "embedding"
    host = _host(traced, cell, host_weights) if embeds else None
    found, features = _run(traced, arriving, device, dtype, host)
    if embeds:
        scores, columns = _embedding(features, found["target"], device)
    else:
        describe = _multi_label if dataset.task == "multi_label" else _single_label
        scores, columns = describe(found["logits"], found["target"])
        losses = image_losses(recipe, dataset.task, found["logits"], found["target"])
        scores |= {"loss": losses.double().mean().item()}
        columns |= {"loss": losses.numpy()}
    metrics: Metrics = {
        "metric": dataset.metric,
        "accuracy": scores[dataset.metric],
        **scores,
        "images": len(found["image"]),
        **_cost(model, found),
        **({} if cell.schedule is None else {"keep_rate": _keep_rate(model)}),
        "compiled": compiling.on,
        "select_on": recipe.select_on,
        "family": reduction.METHODS[cell.method].family,
    }
    if embeds and metrics["family"] != "baseline":
        metrics["capped"] = _capped(model, metrics["tokens"])
    predictions = {"image": found["image"].numpy(), **columns}
    if dataset.units is not None:
        predictions["unit"] = dataset.units[predictions["image"]]
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
    host: InferencePass | None = None,
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Run all batches; return what there is of every image by name, and its features.

    Logits, targets and patterns stay on the device to the end; features, which are large, do not.
    With a `host`, what the model returns are features, too, and `host` are those of the host.
    """
    found = []
    with SpooledArrays() as features:
        for images, targets, index in batches:
            with autocast(device, dtype):
                logits, patterns, cls = traced.run(images, index)
                of_host = host.run(images, index)[0] if host and host is not traced else logits
            kept = {"target": targets, "image": index, **patterns}
            if host is None:
                found.append({"logits": logits.float(), **kept})
                features.add(cls)
            else:
                found.append(kept)
                features.add({**cls, "pooled": logits.float(), "host": of_host.float()})
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


def _single_label(logits: Tensor, targets: Tensor) -> tuple[Metrics, Columns]:
    """Return the metrics, and the columns with the most likely classes of every image."""
    best = logits.softmax(dim=1).topk(min(TOP, logits.shape[1]), dim=1)
    columns: Columns = {"target": targets.numpy()}
    for rank, (classes, scores) in enumerate(zip(best.indices.T, best.values.T, strict=True), 1):
        columns |= {f"class_{rank}": classes.numpy(), f"score_{rank}": scores.numpy()}
    metrics: Metrics = {
        "top1": top_k_accuracy(logits, targets, 1),
        "top5": top_k_accuracy(logits, targets, 5),
    }
    return metrics, columns


def _multi_label(logits: Tensor, targets: Tensor) -> tuple[Metrics, Columns]:
    """Return the metrics, and the columns with all labels and scores of every image."""
    mean, undefined = mean_average_precision(logits, targets)
    labels = [row.nonzero()[0] for row in targets.numpy()]
    columns: Columns = {"target": labels, "scores": list(logits.sigmoid().numpy())}
    return {"map": mean, "classes_without_positives": undefined}, columns


def _host(traced: InferencePass, cell: Cell, weights: Path | None) -> InferencePass:
    """Return a pass through the host without reduction, of the same weights: a baseline's own."""
    if reduction.METHODS[cell.method].family == "baseline":
        return traced
    unreduced = {"method": "deit", "options": {}}
    host = build_model(cell.model_copy(update=unreduced), 0, pretrained=False, weights=weights)
    of_model = traced.model.state_dict()
    host.load_state_dict({name: of_model[name] for name in host.state_dict()})
    return InferencePass(host.to(next(traced.model.parameters()).device).eval())


def _embedding(
    features: dict[str, np.ndarray], targets: Tensor, device: torch.device
) -> tuple[Metrics, Columns]:
    """Return the metrics and columns of pooled features; the host's are taken out of them."""
    of_host, pooled = features.pop("host"), features["pooled"]
    own = torch.from_numpy(np.array(pooled)).to(device)
    other = own if np.array_equal(of_host, pooled) else torch.from_numpy(np.array(of_host))
    labelled = targets.ndim == 1 and len(targets.unique()) > 1
    found = compare(own, other.to(device), targets.to(device) if labelled else None)
    cosine, neighbours = (100 * part.double().cpu().numpy() for part in found[:2])
    metrics: Metrics = {
        "cosine": float(cosine.mean()),
        "cosine_p5": float(np.quantile(cosine, LOW, method="inverted_cdf")),
        "neighbours": float(neighbours.mean()),
    }
    columns: Columns = {"cosine": cosine, "neighbours": neighbours}
    if found.vote is not None:
        vote = found.vote.cpu()
        metrics |= {"knn": 100 * (vote == targets).double().mean().item()}
        columns |= {"target": targets.numpy(), "class_1": vote.numpy()}
    return metrics, columns


def _capped(model: ReducedVisionTransformer, tokens: Mapping[str, float]) -> dict[str, float]:
    """Return how many tokens were asked for after the blocks that leave more of them.

    Some methods can remove no more than half of the tokens at a block; one may be left over, of
    those that are fused.
    """
    asked = _asked(model)
    return {
        block: asked[int(block)] for block, left in tokens.items() if left > asked[int(block)] + 1
    }


def _asked(model: ReducedVisionTransformer) -> dict[int, int]:
    """Return how many patch tokens are asked for after each block that reduces."""
    patches, blocks = model.patch_embed.num_patches, model.reduction_loc
    asked = make_schedule(len(model.blocks), **model.amount._asdict(), reduction_loc=blocks)
    return dict(zip(asked.blocks, asked.targets(patches), strict=True))


def _keep_rate(model: ReducedVisionTransformer) -> float:
    """Return the keep rate that asks for as many tokens after the last of the same blocks."""
    left = max(1, list(_asked(model).values())[-1])
    patches, blocks = model.patch_embed.num_patches, model.reduction_loc
    return round((left / patches) ** (1 / len(blocks)), 6)


def _cost(model: ReducedVisionTransformer, found: Mapping[str, Tensor]) -> Metrics:
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
