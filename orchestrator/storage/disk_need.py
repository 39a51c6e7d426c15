"""What cells will take on the disk, and whether there is so much."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.storage.disk_use import in_words
from trainables.cell import Cell
from trainables.cell_folder import STATES_KEPT
from trainables.patience import space_left
from trainables.store_path import StorePath

if TYPE_CHECKING:
    from timm.models import VisionTransformer

    from trainables.data.base import ImageDataset

BYTES_A_PREDICTION = 50
"""Of an image with a single label: classes, their scores and the loss."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a cell takes, about; a little more rather than less."""

    weights: int
    states: int
    """While it trains: the resume states that are kept, and the one that is being written."""
    artifacts: int
    """Of all its evaluations: features, patterns and predictions, not compressed."""

    @classmethod
    def of(cls, cell: Cell, model: "VisionTransformer", dataset: "ImageDataset") -> "DiskNeed":
        """Return what a cell will take, from the shapes of its model alone."""
        weights = sum(x.numel() * x.element_size() for x in model.state_dict().values())
        with_average = cell.recipe.ema_decay is not None
        state = weights * (4 if with_average else 3)  # Weights, two moments, their average.
        stages, patches = len(cell.reduction_loc), model.patch_embed.num_patches
        features = 4 * model.embed_dim * (stages + 1)
        patterns = (1 if patches < 255 else 2) * patches * stages
        several = dataset.task == "multi_label"
        predictions = 4 * len(dataset.class_names) if several else BYTES_A_PREDICTION
        an_evaluation = len(dataset.val) * (features + patterns + predictions)
        artifacts = an_evaluation * (1 + len(cell.eval_keep_rates))
        return cls(weights, (STATES_KEPT + 1) * state if cell.recipe.epochs else 0, artifacts)


@dataclass(frozen=True)
class DiskPeak:
    """The most that cells will take on the disk at any one time."""

    weights: int
    states: int
    artifacts: int

    @classmethod
    def of(
        cls, untrained: Iterable[DiskNeed], trained: Iterable[DiskNeed], at_once: int
    ) -> "DiskPeak":
        """Return what cells take until all of them are done.

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
        """All of it, bytes."""
        return self.weights + self.states + self.artifacts

    def __str__(self) -> str:
        return in_words({kind: size for kind, size in vars(self).items() if size})

    def shortage(self, storage: StorePath) -> str | None:
        """Return what to tell where a storage has less free, None where it has enough."""
        if not isinstance(storage, Path) or _free(storage) >= self.total:
            return None
        return f"the disk may run full: up to {self} is still to come, and {space_left(storage)}"


def _free(path: Path) -> int:
    path = path.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free
