"""Which weights of a training are its best: the scores after each epoch decide."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainables.cell_data import CellData
from trainables.device_batches import DeviceBatches
from trainables.finite import require_finite
from trainables.inference_pass import InferencePass
from trainables.prediction import predict, score
from trainables.ranks import Ranks

Weights = dict[str, Tensor]


class Selection:
    """Scores a cell's models as it trains and keeps the best weights; all ranks call it together.

    Args:
        data: Has the split that selects, and the metric.
        batch_size: Images that all ranks together take in a forward pass.
        ranks: This process among those that train the cell.
    """

    def __init__(self, data: CellData, batch_size: int, ranks: Ranks) -> None:
        self._data = data
        self._batch_size = math.ceil(batch_size / ranks.size)
        self._ranks = ranks
        self._weights: Weights | None = None
        self._batches: DataLoader | None = None
        self.accuracy: float | None = None
        """The last evaluation's better score of model and average, in percent."""
        self.meta: dict[str, Any] | None = None
        """`accuracy`, `metric`, `epoch` and `source` of the best weights."""

    @property
    def best(self) -> tuple[Weights, dict[str, Any]]:
        """The best weights so far, on the CPU, with their `meta`.

        Raises:
            RuntimeError: If no evaluation since the state was loaded has found better ones, or
                this is not rank 0, which alone keeps them.
        """
        if self._weights is None or self.meta is None:
            raise RuntimeError("there are no best weights in memory: none found since loading")
        return self._weights, self.meta

    def close(self) -> None:
        """End the processes that load images, if any; a later evaluation starts new ones."""
        self._batches = None

    def restore(self, accuracy: float | None, meta: dict[str, Any] | None) -> None:
        """Go on from an earlier process's evaluations, whose best weights are not in memory."""
        self.accuracy, self.meta, self._weights = accuracy, meta, None

    def evaluate(
        self,
        passes: Mapping[str, InferencePass],
        *,
        epoch: int,
        step: int,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> bool:
        """Score models on the selecting split; return whether one is better than all before.

        Args:
            passes: By the name that `source` says: through the model and, if there is one, its
                average.
            epoch: Epochs done.
            step: Optimiser steps done.
            device: Where the models are.
            dtype: Autocast's; None for none.

        Raises:
            NonFiniteError: If a logit is infinite or not a number.
        """
        scores = self._scores(passes, step, device, dtype)
        self.accuracy = max(scores)
        if self.meta and self.accuracy <= self.meta["accuracy"]:
            return False
        source = list(passes)[scores.index(self.accuracy)]
        self._weights = _on_cpu(passes[source].model) if self._ranks.first else None
        self.meta = {
            "accuracy": self.accuracy,
            "metric": self._data.dataset.metric,
            "epoch": epoch,
            "source": source,
        }
        return True

    def _scores(
        self,
        passes: Mapping[str, InferencePass],
        step: int,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> list[float]:
        """Return each model's score on the whole split, of which every rank predicts a part."""
        split, metric = self._data.selecting, self._data.dataset.metric
        self._batches = self._batches or self._data.eval_batches(split, self._batch_size)
        batches = DeviceBatches(self._batches, device, self._data.normalise)
        predictions, targets = predict(list(passes.values()), batches, device=device, dtype=dtype)
        largest = self._ranks.sum([logits.abs().max().item() for logits in predictions])
        found = {f"logits of {name}": x for name, x in zip(passes, largest, strict=True)}
        require_finite(step, found)
        *predictions, targets = (
            self._ranks.interleaved(part, len(split)) for part in (*predictions, targets)
        )
        return self._ranks.from_first(
            lambda: [score(metric, logits, targets) for logits in predictions]
        )


def _on_cpu(model: nn.Module) -> Weights:
    return {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
