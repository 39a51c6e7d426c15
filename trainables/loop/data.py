"""The data of one cell: the splits of its dataset, transformed as its recipe says."""

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch.utils.data import DataLoader

from trainables.cell.cell import Cell
from trainables.data import open_dataset
from trainables.data.base import ImageDataset, Split
from trainables.data.cache import cached, prepare
from trainables.data.loader import batch_sizes, eval_loader, holdout_split, train_loader
from trainables.data.normalisation import Normalisation
from trainables.data.shared import stream_name
from trainables.data.transforms import erasing, eval_transform, train_transform
from trainables.models.host import host_mean_std
from trainables.workers import ALONE, Workers

SHAPING_IMAGES = (
    "image_size",
    "crop_scale",
    "horizontal_flip",
    "color_jitter",
    "rand_augment",
    "random_erasing",
    "cutout",
)
"""Fields of the recipe that, with split and seed, decide what a training image becomes."""


Batches = Iterable[Sequence[Tensor]]
"""Of each batch the images uint8 [B, 3, H, W], their targets, and their numbers in the split."""


class TrainingData(Protocol):
    """What a training needs of its data.

    Attributes:
        dataset: The dataset.
        train: What is trained on: the training split, or what a holdout leaves of it.
        selecting: What picks the best epoch: the evaluation split, or the holdout.
        batches_per_epoch: Batches of `train`.
        batch_images: Images in every batch of `train`, on all ranks together.
        normalise: Prepares batches on their device for the cell's model.
    """

    dataset: ImageDataset
    train: Split
    selecting: Split
    batches_per_epoch: int
    batch_images: int
    normalise: Normalisation

    def prepare_training(self) -> Generator[str]:
        """Make the images that training needs readable.

        Yields:
            What is being done, often; nothing where all is readable.
        """

    def train_batches(self, epoch: int, start_batch: int = 0) -> Batches:
        """Return this rank's shards of an epoch's augmented batches, from one batch on."""

    def eval_batches(self, split: Split, batch_size: int) -> Batches:
        """Return the batches of this rank's stride of a split, without randomness, in order."""


class CellData(TrainingData):
    """Opens a cell's dataset.

    Args:
        cell: What is trained or evaluated.
        data_root: The dataset's folder; None for an embedded dataset.
        host_weights: Folder of the hosts' pretrained weights.
        index_folder: Folder of the datasets' indices; None keeps none.
        ranks: This process among those that train the cell together.
    """

    def __init__(
        self,
        cell: Cell,
        data_root: Path | None,
        host_weights: Path | None = None,
        index_folder: Path | None = None,
        ranks: Workers = ALONE,
    ) -> None:
        self._cell = cell
        self._mean, std = host_mean_std(cell.host, host_weights)
        self.normalise = Normalisation(self._mean, std)
        self._ranks = ranks
        opened = open_dataset(cell.dataset, data_root, index_folder)
        self.dataset = opened.asked(cell.recipe.task)
        if cell.recipe.cache is not None:
            self.dataset = cached(self.dataset, cell.recipe.cache)
        self.train: Split = self.dataset.train
        self.selecting: Split = self.dataset.val
        if cell.recipe.select_on == "holdout":
            self.train, self.selecting = holdout_split(self.dataset.train)
        recipe = cell.recipe
        sizes = batch_sizes(
            len(self.train), recipe.batch_size, repeats=recipe.repeated_augmentation
        )
        self.batches_per_epoch, self.batch_images = len(sizes), sizes[0]

    def prepare_training(self) -> Generator[str]:
        """Make the images readable; see `TrainingData`."""
        if self._cell.recipe.epochs:
            yield from prepare(self.train)
        yield from prepare(self.selecting)

    def train_batches(self, epoch: int, start_batch: int = 0) -> DataLoader:
        """Return this rank's shards of augmented batches; see `TrainingData`."""
        recipe = self._cell.recipe
        return train_loader(
            self.train,
            train_transform(recipe, self.dataset.task, self._mean),
            erasing=erasing(recipe, self.dataset.task),
            batch_size=recipe.batch_size,
            seed=self._cell.seed,
            epoch=epoch,
            epochs=recipe.epochs - epoch,
            start_batch=start_batch,
            num_workers=recipe.loader_workers,
            repeats=recipe.repeated_augmentation,
            rank=self._ranks.rank,
            world_size=self._ranks.size,
            shared_as=self._stream() if recipe.shared_input else None,
        )

    def eval_batches(self, split: Split, batch_size: int) -> DataLoader:
        """Return this rank's batches of a split, whose images it makes readable first."""
        for _ in prepare(split):
            pass
        recipe = self._cell.recipe
        return eval_loader(
            split,
            eval_transform(recipe, self.dataset.task),
            batch_size=batch_size,
            num_workers=recipe.loader_workers,
            rank=self._ranks.rank,
            world_size=self._ranks.size,
        )

    def _stream(self) -> str:
        """Return the name of all cells' training images that are the same as this cell's.

        The images must be readable.
        """
        settings = {name: getattr(self._cell.recipe, name) for name in SHAPING_IMAGES} | {
            "dataset": self._cell.dataset,
            "seed": self._cell.seed,
            "mean": self._mean,
        }
        return stream_name(settings, self.train)
