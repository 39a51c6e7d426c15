"""The data of one cell: its dataset's splits behind its recipe's transforms."""

from collections.abc import Generator
from pathlib import Path

from torch.utils.data import DataLoader

from trainables.cell import Cell
from trainables.data import open_dataset
from trainables.data.base import Split
from trainables.data.cache import cached, prepare
from trainables.data.loader import batch_sizes, eval_loader, holdout_split, train_loader
from trainables.data.normalisation import Normalisation
from trainables.data.shared import stream_name
from trainables.data.transforms import erasing, eval_transform, train_transform
from trainables.host import host_mean_std
from trainables.ranks import ALONE, Ranks

SHAPING_IMAGES = (
    "image_size",
    "crop_scale",
    "horizontal_flip",
    "color_jitter",
    "rand_augment",
    "random_erasing",
    "cutout",
)
"""Fields of the recipe that decide, with its split and draws, what a training image becomes."""


class CellData:
    """Opens a cell's dataset.

    Attributes:
        dataset: The dataset.
        train: What is trained on: all of the training split, or what a holdout leaves of it.
        selecting: What picks the best epoch: the evaluation split, or the holdout.
        batches_per_epoch: Batches of `train`.
        batch_images: Images in every batch of `train`, of all ranks together.
        normalise: Makes batches that have arrived on a device ready for the cell's model.
    """

    def __init__(
        self,
        cell: Cell,
        data_root: Path | None,
        host_weights: Path | None = None,
        index_folder: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._cell = cell
        self._mean, std = host_mean_std(cell.host, host_weights)
        self.normalise = Normalisation(self._mean, std)
        self._ranks = ranks
        self.dataset = open_dataset(cell.dataset, data_root, index_folder)
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
        """Make the images that training needs ready to be read.

        Yields:
            Words on what is going on, often; none where there is nothing to do.
        """
        if self._cell.recipe.epochs:
            yield from prepare(self.train)
        yield from prepare(self.selecting)

    def train_batches(self, epoch: int, start_batch: int = 0) -> DataLoader:
        """Return this rank's shards of the augmented batches left, from an epoch's batch on."""
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
        """Return the batches of this rank's stride of a split, without randomness, in order.

        Images that are not ready are made so first.
        """
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
        """Return a name for what this cell's training images have in common with those of others.

        The images must have been made ready.
        """
        settings = {name: getattr(self._cell.recipe, name) for name in SHAPING_IMAGES} | {
            "dataset": self._cell.dataset,
            "seed": self._cell.seed,
            "mean": self._mean,
        }
        return stream_name(settings, self.train)
