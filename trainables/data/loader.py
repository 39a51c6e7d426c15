"""Batches whose order and augmentation are functions of (seed, epoch, index) alone.

Neither the number of loader processes, nor the batch an epoch is entered at, nor the state of the
process's own random generators changes what a batch holds; and drawing batches leaves the states
of those generators (`random`, NumPy's, PyTorch's on the CPU) as they were.

Several ranks that train a cell together share every batch, so that what a batch holds does not
depend on their number either. Nor does sharing batches with other cells (`trainables.data.shared`).
"""

import hashlib
import math
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from trainables.data.base import Split, Subset
from trainables.data.erasing import Erasing
from trainables.data.shared import SharedBatches
from trainables.data.shared_folder import Batch, SharedFolder, shared_folder
from trainables.data.transforms import Transform

Draw = tuple[int, int, int]
"""An epoch, an image's index and which of its augmented copies in that epoch this is, from 0."""
Sample = tuple[Any, ...]
"""Pixels uint8 [3, H, W], a `Target`, the index and, where images are erased, an `Erased`."""

HOLDOUT_SHARE = 0.05


def stream_seed(*numbers: int) -> int:
    """Hash integers below 2^63 in size to a 64-bit seed, far apart for neighbouring numbers."""
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def epoch_order(n: int, seed: int, epoch: int, *, repeats: int = 1) -> np.ndarray:
    """Return the int64 indices of the images that an epoch visits, in order.

    Without repeats that is a permutation of `range(n)`. With repeated augmentation (Hoffer et al.,
    "Augment Your Batch", CVPR 2020, as in DeiT) it is a permutation in which every image stands
    `repeats` times in a row, cut after `n` images, from 256 on rounded down to a multiple of it.
    """
    if repeats == 1:
        return np.random.default_rng((seed, epoch)).permutation(n)
    sampler = _repeats_sampler(n, repeats)
    sampler.set_epoch(stream_seed(seed, epoch))
    return np.fromiter(sampler, dtype=np.int64)


def batch_sizes(n: int, batch_size: int, *, repeats: int = 1) -> list[int]:
    """Return the images in each batch of an epoch over a split of `n` images, all ranks together.

    The last, incomplete batch of an epoch is dropped. A split smaller than a batch gives a single
    batch of all its images, one less where they are odd in number: mixup pairs them up.

    Raises:
        ValueError: If there are fewer than 2 images.
    """
    return [batch.stop - batch.start for batch in _batch_slices(n, batch_size, repeats)]


def shard(size: int, rank: int, world_size: int) -> list[int]:
    """Return a rank's places in a batch of `size` images, ascending.

    The ranks share a batch out in pairs (i, size - 1 - i), in turn. Mixup pairs a batch with its
    mirror image, and the mirror image of a shard consists of the same pairs: ranks that draw the
    same numbers mix their shards as one process mixes the whole batch.

    Raises:
        ValueError: If there are fewer pairs than ranks.
    """
    pairs = (size + 1) // 2
    if pairs < world_size:
        raise ValueError(
            f"a batch has {size} images, but must have at least {2 * world_size - 1} for "
            f"{world_size} workers"
        )
    first = range(rank, pairs, world_size)
    return sorted({*first, *(size - 1 - place for place in first)})


def train_loader(
    split: Split,
    transform: Transform,
    *,
    erasing: Erasing | None = None,
    batch_size: int,
    seed: int,
    epoch: int,
    epochs: int = 1,
    start_batch: int = 0,
    num_workers: int = 0,
    repeats: int = 1,
    rank: int = 0,
    world_size: int = 1,
    shared_as: str | None = None,
) -> DataLoader:
    """Return a rank's shards of the batches of some epochs, from `start_batch` on.

    Loader processes that go through several epochs start once, and work ahead between them.

    Args:
        split: Images and targets.
        transform: Augments an RGB image to pixels, uint8 [3, H, W].
        erasing: Draws what is erased of an image; None where nothing is.
        batch_size: Images a batch, of all ranks; see `batch_sizes` for the epoch's end.
        seed: Seed of the cell.
        epoch: Number of the first epoch, from 0.
        epochs: How many there are.
        start_batch: Batches of the first epoch to leave out at its start.
        num_workers: Processes that decode and augment; 0 does it in this one.
        repeats: Augmented copies of an image; see `epoch_order`.
        rank: Number of this process among those that train the cell together.
        world_size: How many processes train the cell together.
        shared_as: Name of all that the images depend on beside their draws, under which batches
            are shared with other cells of this node; None shares none.

    Returns:
        An iterable with a length. A `shard` of B images is (pixels uint8 [B, 3, H, W], targets
        int64 [B] or float32 [B, classes], indices int64 [B] into the split); with `erasing` two
        more follow, the boxes and the noise that `erase_` takes.

    Raises:
        ValueError: If there are fewer than 2 images or too few for the ranks, or `start_batch`
            lies outside the epoch.
    """
    order = partial(_kept_order, len(split), seed, repeats)
    batches = _batch_slices(len(split), batch_size, repeats)
    if not 0 <= start_batch <= len(batches):
        raise ValueError(f"start_batch is {start_batch}, but must be 0 to {len(batches)}")
    places = shard(batches[0].stop, rank, world_size)
    shards = _Shards(order, range(epoch, epoch + epochs), batches, start_batch, repeats, places)
    images = _AugmentedImages(split, transform, erasing, seed)
    if shared_as is None:
        return _loader(images, num_workers, batch_sampler=shards, collate_fn=_collated)
    folder = SharedFolder(shared_folder())
    shared = SharedBatches(images.batch, shards.draws, len(shards), shared_as, folder)
    return _loader(shared, num_workers, batch_size=None)


def eval_loader(
    split: Split,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Return every image of a split once, in order, in batches of pixels, targets and indices.

    The last batch may be smaller. Of several ranks, each gets its stride of the images. All get
    equally many: where the images run out, the last ranks begin again at the first one. Loader
    processes last until the loader is gone, however often it is gone through.
    """
    per_rank = math.ceil(len(split) / world_size)
    stride = [place % len(split) for place in range(rank, per_rank * world_size, world_size)]
    return _loader(
        _Images(split, transform),
        num_workers,
        batch_size=batch_size,
        sampler=stride,
        persistent_workers=num_workers > 0,
    )


def holdout_split(train: Split, seed: int = 0) -> tuple[Subset, Subset]:
    """Part a training split at random into the rest and a holdout of 5 %, at least one image.

    Raises:
        ValueError: If the split has fewer than 2 images.
    """
    if len(train) < 2:
        raise ValueError(f"training split has {len(train)} images, but must have at least 2")
    shuffled = np.random.default_rng(seed).permutation(len(train))
    count = max(1, round(HOLDOUT_SHARE * len(train)))
    return Subset(train, np.sort(shuffled[count:])), Subset(train, np.sort(shuffled[:count]))


class _Images(Dataset[Sample]):
    """A split through a transform without randomness."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.split.image(index)), self.split.target(index), index


class _AugmentedImages(_Images):
    """A split through a random transform, seeded anew for each draw."""

    def __init__(
        self, split: Split, transform: Transform, erasing: Erasing | None, seed: int
    ) -> None:
        super().__init__(split, transform)
        self.erasing = erasing
        self.seed = seed

    def __getitems__(self, draws: Sequence[Draw]) -> list[Sample]:
        # Keeping the generators' states takes ten times as long as seeding: once a batch.
        with _global_random_states_kept():
            return [self._augmented(*draw) for draw in draws]

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """Return a batch as a loader puts it together."""
        return _collated(self.__getitems__(draws))

    def _augmented(self, epoch: int, index: int, copy: int) -> Sample:
        _seed_global_generators(stream_seed(self.seed, epoch, index, copy))
        pixels, target, _ = self[index]
        erased = self.erasing(*pixels.shape[1:]) if self.erasing else ()
        return (pixels, target, index, *erased)


@dataclass(frozen=True)
class _Shards(Sampler[list[Draw]]):
    """A rank's draws of some epochs, batch by batch, from `start_batch` of the first one on."""

    order: Callable[[int], np.ndarray]
    epochs: range
    batches: list[slice]
    start_batch: int
    repeats: int
    places: list[int]

    def __len__(self) -> int:
        return len(self.batches) * len(self.epochs) - self.start_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        return map(self.draws, range(len(self)))

    def draws(self, place: int) -> list[Draw]:
        """Return the draws of one batch, counted from the first one that is not left out."""
        passed, number = divmod(self.start_batch + place, len(self.batches))
        epoch, batch = self.epochs[passed], self.batches[number]
        indices = self.order(epoch)[batch][self.places].tolist()
        copies = (np.arange(batch.start, batch.stop) % self.repeats)[self.places].tolist()
        return [(epoch, index, copy) for index, copy in zip(indices, copies, strict=True)]


@lru_cache(maxsize=2)
def _kept_order(n: int, seed: int, repeats: int, epoch: int) -> np.ndarray:
    return epoch_order(n, seed, epoch, repeats=repeats)


def _batch_slices(images: int, batch_size: int, repeats: int) -> list[slice]:
    n = images if repeats == 1 else len(_repeats_sampler(images, repeats))
    if n < 2:
        raise ValueError(f"training split has {n} images, but must have at least 2")
    if n < batch_size:
        return [slice(0, n // 2 * 2)]
    return [slice(start, start + batch_size) for start in range(0, n + 1 - batch_size, batch_size)]


def _repeats_sampler(n: int, repeats: int) -> RepeatAugSampler:
    # Over one rank: what it draws is what several would draw in turn.
    return RepeatAugSampler(range(n), 1, 0, num_repeats=repeats)


def _collated(samples: Sequence[Sample]) -> Batch:
    """Put samples together to a batch; the noise of them all, if any, end to end."""
    batch: Batch = default_collate([sample[:4] for sample in samples])
    noise = [part for sample in samples for part in sample[4:]]
    return [*batch, torch.cat(noise)] if noise else batch


def _loader(dataset: Dataset[Any], num_workers: int, **batching: object) -> DataLoader:
    return DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        # Without a generator of its own, a loader draws from PyTorch's global one.
        generator=torch.Generator(),
        **batching,  # type: ignore[arg-type]
    )


def _seed_global_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm's RandAugment draws from this generator
    torch.default_generator.manual_seed(seed)


@contextmanager
def _global_random_states_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    pytorch = torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)
