"""The data of one cell: its dataset's splits behind its recipe's transforms."""

from pathlib import Path

from torch.utils.data import DataLoader

from trainables.cell import Cell
from trainables.data import open_dataset
from trainables.data.base import Split
from trainables.data.loader import batches_per_epoch, eval_loader, holdout_split, train_loader
from trainables.data.transforms import eval_transform, train_transform
from trainables.host import host_mean_std


class CellData:
    """Opens a cell's dataset.

    Attributes:
        dataset: The dataset.
        train: What is trained on: all of the training split, or what a holdout leaves of it.
        selecting: What picks the best epoch: the evaluation split, or the holdout.
        batches_per_epoch: Batches of `train`.
    """

    def __init__(self, cell: Cell, data_root: Path | None) -> None:
        self._cell = cell
        self.dataset = open_dataset(cell.dataset, data_root)
        self.train: Split = self.dataset.train
        self.selecting: Split = self.dataset.val
        if cell.recipe.select_on == "holdout":
            self.train, self.selecting = holdout_split(self.dataset.train)
        self.batches_per_epoch = batches_per_epoch(len(self.train), cell.recipe.batch_size)

    def train_batches(self, epoch: int, start_batch: int = 0) -> DataLoader:
        """Return the epoch's augmented batches, from `start_batch` on."""
        recipe = self._cell.recipe
        return train_loader(
            self.train,
            train_transform(recipe, self.dataset.task, *host_mean_std(self._cell.host)),
            batch_size=recipe.batch_size,
            seed=self._cell.seed,
            epoch=epoch,
            start_batch=start_batch,
            num_workers=recipe.loader_workers,
        )

    def eval_batches(self, split: Split, batch_size: int) -> DataLoader:
        """Return a split's batches without randomness, in order."""
        recipe = self._cell.recipe
        return eval_loader(
            split,
            eval_transform(recipe, self.dataset.task, *host_mean_std(self._cell.host)),
            batch_size=batch_size,
            num_workers=recipe.loader_workers,
        )
