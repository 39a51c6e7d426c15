"""Select the best weights of a training by the scores after each epoch."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from trainables.cell.json_records import BestRecord
from trainables.cell.not_finite import require_finite
from trainables.loop.data import Batches, TrainingData
from trainables.loop.device_batches import DeviceBatches
from trainables.loop.metrics import predict, score
from trainables.models.passes import InferencePass
from trainables.workers import Workers

Weights = dict[str, Tensor]
MeanLoss = Callable[[Tensor, Tensor], float]


class BestWeights:
    """Scores a cell's models while it trains and keeps the best weights; all ranks call it.

    Args:
        data: Its `selecting` split decides, by its metric.
        batch_size: Images of a forward pass on all ranks together.
        ranks: This process among those that train the cell.
        loss: Returns the mean loss of logits on targets, if the record is to have it.
    """

    def __init__(
        self, data: TrainingData, batch_size: int, ranks: Workers, loss: MeanLoss | None = None
    ) -> None:
        self._loss = loss
        self._data = data
        self._batch_size = math.ceil(batch_size / ranks.size)
        self._ranks = ranks
        self._weights: Weights | None = None
        self._batches: Batches | None = None
        self.accuracy: float | None = None
        """The last evaluation's better score of model and average, in percent."""
        self.meta: BestRecord | None = None
        """The record of the best weights."""

    @property
    def best(self) -> tuple[Weights, BestRecord]:
        """The best weights so far, on the CPU, with their `meta`.

        Raises:
            RuntimeError: No evaluation since the state was loaded has found better ones, or this
                is not rank 0, which alone keeps them.
        """
        if self._weights is None or self.meta is None:
            raise RuntimeError("there are no best weights in memory: none found since loading")
        return self._weights, self.meta

    def close(self) -> None:
        """End the processes that load images; a later evaluation starts new ones."""
        self._batches = None

    def restore(self, accuracy: float | None, meta: BestRecord | None) -> None:
        """Continue from an earlier process's evaluations; their best weights are not in memory."""
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
        """Score models on the selecting split; return whether one is the best so far.

        Args:
            passes: Through the model and its average, if there is one, by the name that `source`
                gets.
            epoch: Finished epochs.
            step: Finished optimiser steps.
            device: Where the models are.
            dtype: Autocast's; None for none.

        Raises:
            NonFiniteError: A logit is infinite or not a number.
        """
        scores, losses = self._scores(passes, step, device, dtype)
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
        if losses:
            self.meta["loss"] = losses[scores.index(self.accuracy)]
        return True

    def keep(self, model: nn.Module) -> bool:
        """Take weights that nothing trains, unscored; return that they are the best so far."""
        self._weights = _on_cpu(model) if self._ranks.first else None
        self.meta = {"metric": self._data.dataset.metric, "epoch": 0, "source": "model"}
        return True

    def _scores(
        self,
        passes: Mapping[str, InferencePass],
        step: int,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> tuple[list[float], list[float]]:
        """Return each model's score on the whole split, and its loss if that is asked for.

        Every rank predicts a part of the split.
        """
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
        loss = self._loss
        return self._ranks.from_first(
            lambda: (
                [score(metric, logits, targets) for logits in predictions],
                [loss(logits, targets) for logits in predictions] if loss else [],
            )
        )


def _on_cpu(model: nn.Module) -> Weights:
    return {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
