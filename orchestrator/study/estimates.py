"""Estimates of the disk space that cells will take, and of the work of training them."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.store.disk_use import sizes_in_words
from trainables.cell.cell import Cell
from trainables.cell.cell_folder import STATES_KEPT
from trainables.storage.paths import StorePath
from trainables.storage.retry import space_left

if TYPE_CHECKING:
    from timm.models import VisionTransformer

    from trainables.data.base import ImageDataset


BYTES_A_PREDICTION = 50
"""Bytes of an image with a single label: classes, their scores and the loss."""


@dataclass(frozen=True)
class DiskNeed:
    """Estimated bytes that a cell takes, rather too many than too few."""

    weights: int
    states: int
    """Resume states while it trains: those that are kept and the one being written."""
    artifacts: int
    """Features, patterns and predictions of all its evaluations, uncompressed."""

    @classmethod
    def of(cls, cell: Cell, model: "VisionTransformer", dataset: "ImageDataset") -> "DiskNeed":
        """Estimate from the shapes of the model alone."""
        weights = sum(x.numel() * x.element_size() for x in model.state_dict().values())
        with_average = cell.recipe.ema_decay is not None
        state = weights * (4 if with_average else 3)  # Weights, two moments, their average.
        stages, patches = len(cell.reduction_loc), model.patch_embed.num_patches
        pooled = dataset.task == "embedding"
        features = 4 * model.embed_dim * (stages + 1 + pooled)
        patterns = (1 if patches < 255 else 2) * patches * stages
        several = dataset.task == "multi_label"
        predictions = 4 * len(dataset.class_names) if several else BYTES_A_PREDICTION
        an_evaluation = len(dataset.val) * (features + patterns + predictions)
        evaluations = 0 if cell.trial else 1 + len(cell.eval_keep_rates)
        artifacts = an_evaluation * evaluations
        return cls(weights, (STATES_KEPT + 1) * state if cell.recipe.epochs else 0, artifacts)


@dataclass(frozen=True)
class DiskPeak:
    """The most bytes that cells will take at any one time."""

    weights: int
    states: int
    artifacts: int

    @classmethod
    def of(
        cls, untrained: Iterable[DiskNeed], trained: Iterable[DiskNeed], at_once: int
    ) -> "DiskPeak":
        """Add up what cells need until all of them are done.

        Args:
            untrained: Cells to be trained and evaluated.
            trained: Cells to be evaluated.
            at_once: How many train at a time.
        """
        untrained = list(untrained)
        return cls(
            sum(need.weights for need in untrained),
            sum(nlargest(at_once, (need.states for need in untrained))),
            sum(need.artifacts for need in [*untrained, *trained]),
        )

    @property
    def total(self) -> int:
        """Bytes of all kinds together."""
        return self.weights + self.states + self.artifacts

    def __str__(self) -> str:
        return sizes_in_words({kind: size for kind, size in vars(self).items() if size})

    def shortage(self, storage: StorePath) -> str | None:
        """Return a warning if a storage has less free, None if it has enough."""
        if not isinstance(storage, Path) or _free(storage) >= self.total:
            return None
        left = space_left(storage)
        return f"the disk may run full: up to {self} may still be written, and {left}"


def _free(path: Path) -> int:
    path = path.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free


@dataclass(frozen=True)
class Estimates:
    """Estimates for unfinished cells, by cell id."""

    macs: dict[str, float] = field(default_factory=dict)
    """Multiply-accumulates of training; a teacher counts as one unreduced host."""
    disk: dict[str, DiskNeed] = field(default_factory=dict)
