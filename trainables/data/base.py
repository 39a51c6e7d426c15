"""What a dataset is: two splits of images with targets, and the names of its classes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import numpy as np
from PIL import Image

Task = Literal["single_label", "multi_label", "embedding"]
"""What is asked of the images: one label, several, or only the features a host makes of them."""
Metric = Literal["top1", "map", "cosine"]
METRICS: dict[Task, Metric] = {
    "single_label": "top1", "multi_label": "map", "embedding": "cosine",
}  # fmt: skip
Target = int | np.ndarray
"""A class index, or a float32 multi-hot vector with one entry a class."""


class Split(Protocol):
    """Images with targets, numbered from 0; all a dataset has to offer for training."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """Return image `index` in mode RGB, decoded anew, so that callers may change it."""
        ...

    def target(self, index: int) -> Target:
        """Return the class index, or the float32 multi-hot vector [classes], of one image."""
        ...


@dataclass(frozen=True, eq=False)
class LabelledSplit(ABC):
    """A split whose targets are in memory: subclasses say where the images come from."""

    targets: np.ndarray
    """int64 class indices [images] or float32 multi-hot vectors [images, classes]."""

    def __len__(self) -> int:
        return len(self.targets)

    def target(self, index: int) -> Target:
        """Return the class index, or the float32 multi-hot vector [classes], of one image."""
        return int(self.targets[index]) if self.targets.ndim == 1 else self.targets[index]

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Return image `index` in mode RGB, decoded anew, so that callers may change it."""


@dataclass(frozen=True, eq=False)
class PixelSplit(LabelledSplit):
    """Images in memory, all of one size."""

    pixels: np.ndarray
    """uint8 [images, height, width], grey, or [images, height, width, 3]."""

    def image(self, index: int) -> Image.Image:
        """Return image `index` in mode RGB."""
        return Image.fromarray(self.pixels[index]).convert("RGB")


@dataclass(frozen=True, eq=False)
class Subset:
    """Some images of a split, renumbered from 0 in the order of `indices`."""

    split: Split
    indices: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        """Return image `indices[index]` of the split."""
        return self.split.image(int(self.indices[index]))

    def target(self, index: int) -> Target:
        """Return the target of image `indices[index]` of the split."""
        return self.split.target(int(self.indices[index]))


@dataclass(frozen=True)
class ImageDataset:
    """A training and an evaluation split over the same classes."""

    name: str
    task: Task
    class_names: tuple[str, ...]
    """Name of each class, in the order of the class indices; none of the task `embedding`."""
    train: Split
    val: Split
    notes: tuple[str, ...] = ()
    """What was left out of the splits, in words; empty where nothing was."""
    units: np.ndarray | None = None
    """What each evaluation image belongs to that is independent of the rest, int64 [images], such
    as the photograph that crops are of; None where each stands for itself."""

    @property
    def metric(self) -> Metric:
        """The number, in percent, that cells on this dataset are compared by."""
        return METRICS[self.task]

    def asked(self, task: Literal["embedding"] | None) -> Self:
        """Return the dataset as a recipe's `task` asks for it.

        Raises:
            ValueError: Labels are asked for, and there are none.
        """
        if task is not None:
            return replace(self, task=task, class_names=())
        if self.task == "embedding":
            raise ValueError(
                f"dataset {self.name!r} has no labels to train on; give the recipe "
                "`task: embedding` and `epochs: 0`"
            )
        return self
