"""What a batch holds is a function of seed, epoch and index, and of nothing else."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.data import open_dataset
from trainables.data.base import Subset
from trainables.data.loader import (
    batch_sizes,
    epoch_order,
    eval_loader,
    holdout_split,
    shard,
    stream_seed,
    train_loader,
)
from trainables.data.normalisation import Normalisation
from trainables.data.transforms import erasing, eval_transform, train_transform
from trainables.recipe import Recipe

GOLDENS = Path(__file__).parents[2] / "data" / "goldens"
GREY = (0.5, 0.5, 0.5)
RECIPE = Recipe(image_size=32, random_erasing=0.5)


@pytest.fixture(scope="module")
def digits():
    return Subset(open_dataset("digits").train, range(70))


@pytest.fixture(scope="module")
def mosaics():
    return Subset(open_dataset("digits_multi").train, range(30))


def batches(split, task="single_label", **options):
    transform = train_transform(RECIPE, task, GREY)
    defaults = {"batch_size": 16, "seed": 0, "epoch": 0, "erasing": erasing(RECIPE, task)}
    return list(train_loader(split, transform, **defaults | options))


def images_by_index(drawn):
    return {
        int(index): image.numpy().tobytes()
        for images, _, indices in map(Normalisation(GREY, GREY), drawn)
        for image, index in zip(images, indices, strict=True)
    }


def assert_equal_batches(ours, expected):
    assert len(ours) == len(expected)
    for batch, same in zip(ours, expected, strict=True):
        assert all(torch.equal(part, other) for part, other in zip(batch, same, strict=True))


def global_states():
    numpy = np.random.get_state()  # noqa: NPY002 - the state that must not change
    return random.getstate(), numpy[1].tobytes(), numpy[2:], torch.get_rng_state().numpy().tobytes()


def test_a_batch_is_images_targets_and_indices(digits, mosaics):
    images, targets, indices, boxes, noise = batches(digits)[0]
    assert (images.dtype, images.shape) == (torch.uint8, (16, 3, 32, 32))
    assert targets.dtype == indices.dtype == torch.int64
    assert targets.tolist() == [digits.target(i) for i in indices.tolist()]
    assert (boxes.dtype, boxes.shape) == (torch.int16, (16, 4))
    top, left, bottom, right = boxes.T
    assert noise.dtype == torch.float32
    assert noise.shape == (3 * ((bottom - top) * (right - left)).sum(),)

    _, targets, indices = batches(mosaics, task="multi_label")[0]
    assert (targets.dtype, targets.shape) == (torch.float32, (16, 10))
    assert np.array_equal(targets, [mosaics.target(i) for i in indices.tolist()])


def test_an_epoch_visits_images_once_and_in_its_own_order(digits):
    orders = [torch.cat([batch[2] for batch in batches(digits, epoch=e)]) for e in range(2)]
    for epoch, order in enumerate(orders):
        assert order.tolist() == epoch_order(70, 0, epoch)[:64].tolist()
        assert len(set(order.tolist())) == 64
    assert orders[0].tolist() != orders[1].tolist()
    assert sorted(epoch_order(70, 0, 0)) == list(range(70))
    assert epoch_order(70, 1, 0).tolist() != epoch_order(70, 0, 0).tolist()


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_loader_processes_change_no_bit(request, task):
    split = request.getfixturevalue("digits" if task == "single_label" else "mosaics")
    assert_equal_batches(batches(split, task, num_workers=2), batches(split, task))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_entered_in_the_middle_gives_the_remaining_batches(digits, num_workers):
    whole = batches(digits, epoch=3)
    for start in (1, 3, 4):
        rest = batches(digits, epoch=3, start_batch=start, num_workers=num_workers)
        assert_equal_batches(rest, whole[start:])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_epochs_follow_each_other_as_if_each_had_a_loader_of_its_own(digits, num_workers, start):
    transform = train_transform(RECIPE, "single_label", GREY)
    options = {"batch_size": 16, "seed": 0, "repeats": 3}
    loader = train_loader(
        digits, transform, **options, epoch=1, epochs=3, start_batch=start, num_workers=num_workers
    )
    single = [train_loader(digits, transform, **options, epoch=epoch) for epoch in (1, 2, 3)]
    expected = [batch for one in single for batch in one][start:]
    assert len(loader) == len(expected) == 12 - start
    assert_equal_batches(list(loader), expected)


def test_the_batch_an_image_falls_into_does_not_matter(digits):
    small, large = (images_by_index(batches(digits, batch_size=size)) for size in (2, 70))
    assert len(small) == 70
    assert small == large


def test_each_epoch_and_seed_augments_anew(digits):
    first = images_by_index(batches(digits, batch_size=70))
    for options in ({"epoch": 1}, {"seed": 1}):
        other = images_by_index(batches(digits, batch_size=70, **options))
        assert not any(first[i] == other[i] for i in range(70))


def test_global_random_states_neither_matter_nor_change(digits):
    expected = batches(digits)
    random.seed(123)
    np.random.seed(123)  # noqa: NPY002 - the state that must not matter
    torch.manual_seed(123)
    before = global_states()
    transform = train_transform(RECIPE, "single_label", GREY)
    erase = erasing(RECIPE, "single_label")
    drawn = []
    for batch in train_loader(digits, transform, erasing=erase, batch_size=16, seed=0, epoch=0):
        assert global_states() == before
        drawn.append(batch)
    assert_equal_batches(drawn, expected)

    list(eval_loader(digits, eval_transform(RECIPE, "single_label"), batch_size=16))
    holdout_split(digits)
    epoch_order(70, 0, 0, repeats=3)
    assert global_states() == before


def test_global_random_states_survive_an_error(digits):
    before = global_states()

    def fail(image):
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        next(iter(train_loader(digits, fail, batch_size=16, seed=0, epoch=0)))
    assert global_states() == before


@pytest.mark.parametrize(
    ("images", "sizes"), [(70, [16] * 4), (64, [16] * 4), (16, [16]), (15, [14]), (2, [2])]
)
def test_the_last_incomplete_batch_is_dropped_unless_it_is_the_only_one(digits, images, sizes):
    drawn = batches(Subset(digits, range(images)))
    assert [len(batch[0]) for batch in drawn] == sizes
    assert batch_sizes(images, 16) == sizes


def test_an_odd_batch_that_the_images_fill_stays_odd(digits):
    assert [len(batch[0]) for batch in batches(Subset(digits, range(5)), batch_size=5)] == [5]


def test_a_single_image_is_too_few(digits):
    with pytest.raises(ValueError, match=r"has 1 images, but must have at least 2$"):
        batches(Subset(digits, range(1)))


@pytest.mark.parametrize("start", [-1, 5])
def test_an_epoch_cannot_be_entered_outside(digits, start):
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'start_batch is {start}, but must be 0 to 4')}$"
    ):
        batches(digits, start_batch=start)


@pytest.mark.parametrize(("size", "world_size"), [(16, 1), (16, 2), (16, 3), (15, 4), (7, 4)])
def test_ranks_share_every_batch(digits, size, world_size):
    whole = batches(digits, batch_size=size)
    shards = [
        batches(digits, batch_size=size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for batch, parts in zip(whole, zip(*shards, strict=True), strict=True):
        expected = images_by_index([batch])
        together = [images_by_index([part]) for part in parts]
        assert sum(len(part) for part in together) == len(expected) == size
        assert {index: image for part in together for index, image in part.items()} == expected


@pytest.mark.parametrize("world_size", [2, 3])
def test_mixing_shards_is_mixing_the_batch(world_size):
    """Mixup pairs an image with the one at the same place from the batch's end."""
    batch = torch.arange(16) + torch.arange(15, -1, -1) * 1j
    for rank in range(world_size):
        part = torch.tensor(shard(16, rank, world_size))
        assert torch.equal(part + part.flip(0) * 1j, batch[part])


def test_more_workers_than_pairs_are_too_many():
    message = "a batch has 6 images, but must have at least 7 for 4 workers"
    with pytest.raises(ValueError, match=f"^{message}$"):
        shard(6, 0, 4)


def test_repeated_augmentation_is_that_of_the_published_study():
    """There each of two ranks visits its stride of the epoch; here they share its batches."""
    with np.load(GOLDENS / "units_A.npz") as arrays:
        published = np.stack([arrays["sampler/rank0"], arrays["sampler/rank1"]], axis=1).ravel()
    generator = torch.Generator().manual_seed(3)  # The published epoch is seeded by its number.
    repeated = np.repeat(torch.randperm(1000, generator=generator).numpy(), 3)
    assert published.tolist() == repeated[: len(published)].tolist()

    generator = torch.Generator().manual_seed(stream_seed(7, 2))
    repeated = np.repeat(torch.randperm(1000, generator=generator).numpy(), 3)
    order = epoch_order(1000, 7, 2, repeats=3)
    assert order.tolist() == repeated[: len(published)].tolist()
    assert batch_sizes(1000, 32, repeats=3) == [32] * (768 // 32)  # 768 images: 256 a round


def test_the_copies_of_an_image_are_augmented_differently(digits):
    copies: dict[int, set[bytes]] = {}
    for images, _, indices, *_ in batches(digits, batch_size=10, repeats=3):
        for image, index in zip(images, indices.tolist(), strict=True):
            copies.setdefault(index, set()).add(image.numpy().tobytes())
    assert sorted(len(different) for different in copies.values()) == [1] + [3] * 23


def test_evaluation_visits_every_image_in_order(digits):
    transform = eval_transform(RECIPE, "single_label")
    drawn = list(eval_loader(digits, transform, batch_size=32))
    assert [len(batch[0]) for batch in drawn] == [32, 32, 6]
    assert torch.cat([batch[2] for batch in drawn]).tolist() == list(range(70))
    assert_equal_batches(list(eval_loader(digits, transform, batch_size=32, num_workers=2)), drawn)


@pytest.mark.parametrize(("images", "world_size"), [(70, 3), (70, 2), (2, 3)])
def test_ranks_evaluate_equal_strides_that_begin_again_at_the_end(digits, images, world_size):
    transform = eval_transform(RECIPE, "single_label")
    split = Subset(digits, range(images))
    strides = [
        torch.cat([batch[2] for batch in loader]).tolist()
        for loader in (
            eval_loader(split, transform, batch_size=8, rank=rank, world_size=world_size)
            for rank in range(world_size)
        )
    ]
    in_turn = [index for places in zip(*strides, strict=True) for index in places]
    assert in_turn[:images] == list(range(images))
    assert in_turn[images:] == list(range(len(in_turn) - images))
    assert len(in_turn) - images < world_size


def test_the_holdout_is_a_fixed_part_of_train():
    train = open_dataset("digits").train
    rest, holdout = holdout_split(train, seed=0)
    assert (len(rest), len(holdout)) == (1365, 72)
    assert sorted([*rest.indices, *holdout.indices]) == list(range(1437))
    assert rest.target(5) == train.target(int(rest.indices[5]))
    assert holdout.image(5).tobytes() == train.image(int(holdout.indices[5])).tobytes()
    assert (holdout_split(train, seed=0)[1].indices == holdout.indices).all()
    assert (holdout_split(train, seed=1)[1].indices != holdout.indices).any()


def test_a_holdout_needs_two_images(digits):
    rest, holdout = holdout_split(Subset(digits, range(2)))
    assert (len(rest), len(holdout)) == (1, 1)
    with pytest.raises(
        ValueError, match=r"^training split has 1 images, but must have at least 2$"
    ):
        holdout_split(Subset(digits, range(1)))
