"""Batches shared by the cells of a node: the same as alone, made once, and nobody waits long."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import wait_until
from PIL import Image
from torch import Tensor

from trainables.data import open_dataset, shared, shared_folder
from trainables.data.base import Subset
from trainables.data.loader import train_loader
from trainables.data.shared import SharedBatches, stream_name
from trainables.data.shared_folder import SharedFolder
from trainables.data.transforms import erasing, train_transform
from trainables.loop.data import SHAPING_IMAGES, CellData
from trainables.recipe import Recipe
from trainables.workers import ALONE, Workers

FORK = multiprocessing.get_context("fork")
GREY = (0.5, 0.5, 0.5)
RECIPE = Recipe(image_size=32, random_erasing=0.5)
TRANSFORM = train_transform(RECIPE, "single_label", GREY)
BATCHES = 6
OPTIONS = {
    "batch_size": 16,
    "seed": 0,
    "epoch": 0,
    "epochs": 2,
    "erasing": erasing(RECIPE, "single_label"),
}
LONG = 1e6
"""Seconds."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, own_processes) -> Iterator[SharedFolder]:
    """Share below the test's own folder, for as long as it runs, and wait for others to the end."""
    monkeypatch.setattr(shared_folder, "MEMORY", tmp_path)
    monkeypatch.setattr(shared, "PATIENCE_SECONDS", LONG)
    yield SharedFolder(shared_folder.shared_folder())
    for process in own_processes():  # Of a test that failed.
        process.kill()


class Counted:
    """A split that counts the images it has decoded, in all processes together."""

    def __init__(self, split, file: Path) -> None:
        self.split = split
        self.file = file
        file.touch()

    def __len__(self) -> int:
        return len(self.split)

    def target(self, index: int) -> int:
        return self.split.target(index)

    def image(self, index: int) -> Image.Image:
        with self.file.open("ab") as file:
            file.write(b".")
        return self.split.image(index)

    @property
    def decoded(self) -> int:
        return self.file.stat().st_size


@pytest.fixture
def images(tmp_path):
    """Return 3 batches of images an epoch."""
    return Counted(Subset(open_dataset("digits").train, range(16 * BATCHES // 2)), tmp_path / "n")


def loader(split, **options):
    return train_loader(split, TRANSFORM, **OPTIONS | {"shared_as": "stream"} | options)


def alone(split, **options):
    return list(loader(split, shared_as=None, **options))


def content(batches) -> list[list[bytes]]:
    return [[tensor.numpy().tobytes() for tensor in batch] for batch in batches]


def in_process(target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    return process


def ended(process) -> None:
    process.join()
    assert process.exitcode == 0


def published(folder) -> list[Path]:
    return sorted(folder.path.glob("*.batch"))


def check(split, expected, options, begin=None) -> None:
    """Be a cell: go through all batches, which must be the expected ones."""
    if begin is not None:
        begin.wait()
    assert content(loader(split, **options)) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cells_in_processes_of_their_own_make_each_batch_once(images, num_workers):
    expected = content(alone(images))
    before, begin = images.decoded, FORK.Barrier(4)
    options = {"num_workers": num_workers}
    for cell in [in_process(check, images, expected, options, begin) for _ in range(4)]:
        ended(cell)
    assert images.decoded - before == before == 16 * BATCHES


@pytest.mark.parametrize(
    "options",
    [
        {"epoch": 1, "epochs": 1},
        {"start_batch": 2},
        {"seed": 1},
        {"batch_size": 8},
        {"repeats": 3},
        {"rank": 1, "world_size": 2},
    ],
)
def test_cells_in_other_places_get_what_they_would_alone(images, options):
    expected, first = content(alone(images)), iter(loader(images))
    next(first)
    assert content(loader(images, **options)) == content(alone(images, **options))
    assert content(first) == expected[1:]


def test_epochs_and_places_that_coincide_are_shared(images):
    list(loader(images))
    before = images.decoded
    list(loader(images, epoch=1, epochs=5, start_batch=1))
    assert images.decoded - before == 16 * (5 * BATCHES // 2 - BATCHES // 2)


def test_a_batch_from_the_folder_may_be_changed(images):
    expected = content(alone(images))
    for _ in range(2):
        for batch, same in zip(loader(images), expected, strict=True):
            assert [tensor.numpy().tobytes() for tensor in batch] == same
            for tensor in batch:
                assert tensor.data_ptr() % 64 == 0  # Sums may depend on where memory begins.
                tensor.zero_()


class Stuck(Counted):
    """A split whose first image takes until it is released."""

    def __init__(self, split: Counted) -> None:
        super().__init__(split.split, split.file)
        self.begun, self.released = FORK.Event(), FORK.Event()

    def image(self, index: int) -> Image.Image:
        self.begun.set()
        self.released.wait()
        return super().image(index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_cell_is_relieved_at_once_and_nobody_was_idle(images, folder, num_workers):
    expected, stuck = content(alone(images)), Stuck(images)
    killed = in_process(check, stuck, expected, {})
    stuck.begun.wait()
    other = in_process(check, images, expected, {"num_workers": num_workers})
    wait_until(lambda: len(published(folder)) == BATCHES - 1)
    assert other.is_alive()
    killed.kill()
    ended(other)
    assert len(published(folder)) == BATCHES
    killed.join()


def test_a_stopped_cell_holds_others_up_for_a_bounded_time(images, monkeypatch):
    monkeypatch.setattr(shared, "PATIENCE_SECONDS", 0.1)
    expected, stuck = content(alone(images)), Stuck(images)
    stopped = in_process(check, stuck, expected, {})
    stuck.begun.wait()
    os.kill(stopped.pid, signal.SIGSTOP)
    ended(in_process(check, images, expected, {}))
    os.kill(stopped.pid, signal.SIGCONT)
    stuck.released.set()
    ended(stopped)


def hold(folder, name, ready, released) -> None:
    with folder.claim(name) as mine:
        assert mine
        ready.set()
        released.wait()


@contextmanager
def claimed_elsewhere(folder, name) -> Iterator[None]:
    """Let another process hold the claim on a batch."""
    ready, released = FORK.Event(), FORK.Event()
    holder = in_process(hold, folder, name, ready, released)
    ready.wait()
    try:
        yield
    finally:
        released.set()
        ended(holder)


def number(draws) -> list[Tensor]:
    """Make a batch of 400 bytes that is its first draw's index."""
    return [torch.full((100,), float(draws[0][1]))]


def numbers(folder, make=number) -> SharedBatches:
    return SharedBatches(make, lambda place: [(0, place, 0)], BATCHES, "numbers", folder)


def test_an_image_that_cannot_be_decoded_fails_where_it_is_due(folder):
    def fail(draws):
        if draws[0][1] == 2:
            raise OSError("no image")
        return number(draws)

    batches = numbers(folder, fail)
    with claimed_elsewhere(folder, batches._name(0)):
        assert [batches._worked_ahead(0) for _ in range(3)] == [True, False, False]
    assert [float(batches[place][0][0]) for place in (0, 1)] == [0, 1]
    with pytest.raises(OSError, match="no image"):
        batches[2]


def test_memory_is_bounded_and_the_oldest_go_first(tmp_path):
    folder = SharedFolder(tmp_path / "small", most=1700)
    (folder.path / ".half.1").write_bytes(b"x" * 900)  # Its writer was killed.
    batches = numbers(folder)
    for place in range(BATCHES):
        assert float(batches[place][0][0]) == place
        assert sum(file.stat().st_size for file in folder.path.iterdir()) <= 1700
    assert [place for place in range(BATCHES) if folder.has(batches._name(place))] == [3, 4, 5]
    assert not list(folder.path.glob(".*"))


def test_by_itself_it_takes_no_more_than_an_eighth_of_the_memory(tmp_path, monkeypatch):
    size = shared_folder.shutil.disk_usage(tmp_path).total
    assert SharedFolder(tmp_path / "a").most == min(4 * 2**30, size // 8)
    monkeypatch.setattr(shared_folder, "MOST_BYTES", 1000)
    assert SharedFolder(tmp_path / "b").most == 1000


@pytest.mark.parametrize("most", [500, 0])
def test_where_there_is_no_room_nobody_waits(tmp_path, most):
    folder = SharedFolder(tmp_path / "full", most=most or 10**9)
    batches = numbers(folder)
    if not most:  # As on a full disk: nothing can be written.
        folder.path.rename(tmp_path / "gone")
    assert float(batches[0][0][0]) == 0
    with claimed_elsewhere(folder, batches._name(1)):
        assert float(batches[1][0][0]) == 1
    assert not folder.path.exists() or not published(folder)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda _: b"", lambda _: b"x" * 5000])
def test_a_file_that_is_not_whole_is_made_again(images, folder, damage):
    expected = content(loader(images))
    whole = [file.read_bytes() for file in published(folder)]
    for file in published(folder):
        file.write_bytes(damage(file.read_bytes()))
    before = images.decoded
    assert content(loader(images)) == expected
    assert images.decoded - before == 16 * BATCHES
    assert [file.read_bytes() for file in published(folder)] == whole


def use(path, ready, released) -> None:
    folder = SharedFolder(path)
    assert folder.publish("batch", number([(0, 1, 0)]))
    ready.set()
    released.wait()


@pytest.mark.parametrize("kill", [False, True])
def test_batches_do_not_outlive_their_users(tmp_path, kill):
    path, ready, released = tmp_path / "used", FORK.Event(), FORK.Event()
    user = in_process(use, path, ready, released)
    ready.wait()
    for _ in range(2):  # Comings and goings of others change nothing.
        assert SharedFolder(path).has("batch")
    if kill:
        user.kill()
        user.join()
        assert (path / "batch.batch").exists()
    else:
        last = SharedFolder(path)
        released.set()
        ended(user)
        assert last.has("batch")
        del last
        assert not (path / "batch.batch").exists()
    assert not SharedFolder(path).has("batch")


def test_the_folder_is_in_memory_if_there_is_enough(tmp_path, monkeypatch):
    assert shared_folder.shared_folder() == tmp_path / f"tokensweep-{os.getuid()}"
    assert shared_folder.shared_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(shared_folder, "LITTLE_MEMORY", 2**70)
    monkeypatch.setenv("TOKENSWEEP_CACHE", str(tmp_path / "disk"))
    assert shared_folder.shared_folder() == tmp_path / "disk" / "batches"


def test_a_process_that_was_not_forked_opens_the_folder_itself(images, folder):
    dataset = loader(images).dataset
    expected = content([dataset[1]])
    copy = pickle.loads(pickle.dumps(dataset))
    before = images.decoded
    assert content([copy[1]]) == expected
    assert images.decoded == before


OTHER = {
    "image_size": 24,
    "crop_scale": (0.5, 0.6),
    "horizontal_flip": 0.0,
    "color_jitter": 0.0,
    "rand_augment": "rand-m9",
    "random_erasing": 1.0,
    "batch_size": 10,
    "repeated_augmentation": 2,
    "select_on": "holdout",
    "cache": 32,
}
"""Another value of each field that shapes the batches of a training with a single label."""


@pytest.fixture
def data(make_cell, image_folder, monkeypatch, tmp_path):
    """Return a function that opens the data of a cell, whose fields are its keywords."""
    monkeypatch.setenv("TOKENSWEEP_CACHE", str(tmp_path / "caches"))

    def opened(ranks=ALONE, **fields):
        data = CellData(make_cell(shared_input=True, **fields), image_folder, ranks=ranks)
        list(data.prepare_training())
        return data

    return opened


def first_batches(*cells: CellData) -> list[list[bytes]]:
    return [content([next(iter(cell.train_batches(0)))])[0] for cell in cells]


@pytest.mark.parametrize("field", OTHER)
def test_what_makes_other_batches_is_not_shared(data, folder, field):
    # Colours are jittered only without RandAugment.
    start = {"rand_augment": None} if field == "color_jitter" else {}
    cells = [data(**start), data(**start | {field: OTHER[field]})]
    ours, others = first_batches(*cells)
    assert len(published(folder)) == 2
    assert first_batches(*cells) == [ours, others]
    if field != "cache":  # It changes nothing in images as small as these.
        assert ours != others


def test_whatever_else_a_recipe_says_is_shared(data, folder):
    others = {"mixup": 0, "drop_path": 0.3, "lr": 1, "epochs": 4, "accumulation": 1}
    ours, same = first_batches(data(method="topk"), data(method="tome", **others))
    assert ours == same
    assert len(published(folder)) == 1


def test_every_field_that_augmentation_reads_tells_cells_apart():
    read = set()

    class Spied(Recipe):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    recipe = Spied()
    read.clear()  # Of what has been checked.
    for task in ("single_label", "multi_label"):
        train_transform(recipe, task, GREY)
        erasing(recipe, task)
    assert read & Recipe.model_fields.keys() == set(SHAPING_IMAGES)


def test_only_cells_of_one_dataset_and_seed_share(image_folder):
    settings = {"seed": 0}
    folder_split, digits = open_dataset("folder", image_folder).train, open_dataset("digits").train
    splits = [
        folder_split,
        open_dataset("folder", image_folder).val,
        Subset(folder_split, range(5)),
        Subset(folder_split, np.arange(6)),
        digits,
        open_dataset("digits").val,
    ]
    names = [stream_name(settings, split) for split in splits]
    assert names == [stream_name(settings, split) for split in splits]
    names.append(stream_name({"seed": 1}, digits))
    assert len(set(names)) == len(names)


def test_training_ends_with_the_same_weights(make_cell, finetune, folder):
    fields = {"epochs": 1, "warmup_epochs": 0, "accumulation": 4}
    weights, made = [], []
    for method, is_shared in [("topk", False), ("tome", True), ("topk", True)]:
        finetuning = finetune(make_cell(method, shared_input=is_shared, **fields))
        assert finetuning.run(until=lambda: False).finished
        weights.append(finetuning.model.state_dict())
        made.append([file.stat().st_mtime_ns for file in published(folder)])
        finetuning.close()
    assert [len(times) for times in made] == [0, 8, 8]
    assert made[1] == made[2]  # The last cell has made none.
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_ranks_share_with_the_same_rank_of_other_cells(data, folder):
    cells = [data(Workers(rank=rank, size=2)) for rank in (0, 1, 1)]
    first, *second = first_batches(*cells)
    assert first != second[0] == second[1]
    assert len(published(folder)) == 2
