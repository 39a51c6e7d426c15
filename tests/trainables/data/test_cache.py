"""The image cache: the pixels of decoding and resizing, made once, checked when they are read."""

import errno
import itertools
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from trainables.data import cache_builder, open_dataset
from trainables.data.cache import cached, prepare
from trainables.data.cache_builder import NoSpaceError
from trainables.data.cache_file import FOLDER_VARIABLE, cache_folder
from trainables.data.image_files import UnreadableImage
from trainables.data.loader import eval_loader, holdout_split, train_loader
from trainables.data.transforms import eval_transform, train_transform
from trainables.recipe import Recipe
from trainables.storage.files import DamagedFileError

SIDE = 32
SIZES = [(96, 64), (64, 96), (50, 50), (33, 61), (32, 40), (24, 90)]
GREY = (0.5, 0.5, 0.5)
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Keep the caches of a test below its own folder."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.fixture
def root(tmp_path):
    """Photographs of many sizes and modes in the layout of `folder`."""
    photographs = [Image.fromarray(load_sample_image(f)) for f in ("china.jpg", "flower.jpg")]
    for part, (name, photograph) in itertools.product(
        ("train", "val"), zip(("temple", "flower"), photographs, strict=True)
    ):
        place = tmp_path / "data" / part / name
        place.mkdir(parents=True)
        for number, size in enumerate(SIZES):
            photograph.resize(size).save(place / f"{number}.jpg", quality=90)
        photograph.resize((70, 50)).convert("L").save(place / "grey.png")
        photograph.resize((50, 70)).convert("CMYK").save(place / "cmyk.jpg")
    return tmp_path / "data"


def opened(root, side=SIDE):
    return cached(open_dataset("folder", root), side)


def ready(root, side=SIDE):
    split = opened(root, side).train
    return split, list(split.prepare())


def pixels(split):
    return [np.asarray(split.image(i)) for i in range(len(split))]


def expected(root, side=SIDE):
    """What decoding and torchvision's resizing give; smaller images stay as they are."""
    files = open_dataset("folder", root).train
    images = [files.image(i) for i in range(len(files))]
    return [
        np.asarray(resize(x, side, InterpolationMode.BICUBIC) if min(x.size) > side else x)
        for x in images
    ]


def assert_right(split, root):
    assert all(np.array_equal(a, b) for a, b in zip(pixels(split), expected(root), strict=True))


def test_images_are_those_of_decoding_and_resizing(root, folder):
    split, words = ready(root)
    assert_right(split, root)
    assert {image.shape[:2] for image in pixels(split)} >= {(32, 48), (48, 32), (40, 32), (90, 24)}
    files = open_dataset("folder", root).train
    assert len(split) == len(files) == 16
    assert [split.target(i) for i in range(16)] == [files.target(i) for i in range(16)]
    size = sum(image.size for image in expected(root))
    assert words[0] == f"building the image cache {split.folder}: 16 of 16 images measured"
    assert words[-1] == f"built the image cache {split.folder}: {size / 1000:.1f} kB"
    assert (split.folder / "pixels.bin").stat().st_size == size


def test_an_image_may_be_changed_by_who_reads_it(root):
    split, _ = ready(root)
    split.image(0).paste((0, 0, 0), (0, 0, 20, 20))
    assert_right(split, root)


def test_a_cache_is_built_once(root):
    split, _ = ready(root)
    built = (split.folder / "cache.json").stat().st_ino
    again, words = ready(root)
    assert words == []
    assert (again.folder / "cache.json").stat().st_ino == built
    assert_right(again, root)


def test_sizes_and_parts_have_caches_of_their_own(root, folder):
    splits = [getattr(opened(root, side), part) for side in (32, 48) for part in ("train", "val")]
    for split in splits:
        assert list(split.prepare())
    assert [max(min(x.shape[:2]) for x in pixels(s)) for s in splits] == [32, 32, 48, 48]
    assert len({split.folder for split in splits}) == 4
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        split.folder.name for split in splits
    }
    assert all(list(split.prepare()) == [] for split in splits)


def test_reading_comes_after_preparing(root):
    with pytest.raises(RuntimeError, match=r"is not open: prepare\(\) comes first$"):
        opened(root).train.image(0)


def test_a_holdout_is_prepared_as_a_whole(root):
    rest, holdout = holdout_split(opened(root).train)
    assert list(prepare(rest))
    list(prepare(holdout))
    image = np.asarray(holdout.image(0))
    assert np.array_equal(image, expected(root)[int(holdout.indices[0])])


def test_embedded_datasets_have_no_cache(folder):
    digits = open_dataset("digits")
    same = cached(digits, SIDE)
    assert (same.train, same.val) == (digits.train, digits.val)
    assert list(prepare(same.train)) == []
    assert not folder.exists()


def test_the_default_folder_is_the_users_own_below_the_temporary_one(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"tokensweep-{os.getuid()}"


def test_building_leaves_the_global_random_states(root):
    before = random.getstate(), torch.get_rng_state()
    ready(root)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def prepare_at_once(root, barrier, outcomes):
    split = opened(root).train
    barrier.wait()
    words = list(split.prepare())
    outcomes.put(([word for word in words if word.startswith("built")], pixels(split)))


def test_of_two_processes_one_builds_and_both_read(root):
    barrier, outcomes = FORK.Barrier(2), FORK.Queue()
    both = [FORK.Process(target=prepare_at_once, args=(root, barrier, outcomes)) for _ in "ab"]
    for process in both:
        process.start()
    built, images = zip(*(outcomes.get(timeout=60) for _ in both), strict=True)
    for process in both:
        process.join()
    assert sorted(map(len, built)) == [0, 1]
    for found in images:
        assert all(np.array_equal(a, b) for a, b in zip(found, expected(root), strict=True))


def die_while_building(root):
    for words in opened(root).train.prepare():
        if "kB" in words:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_builder_is_replaced(root, folder):
    victim = FORK.Process(target=die_while_building, args=(root,))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    (left,) = folder.glob(".*")
    assert (left / "pixels.bin").exists()
    split, words = ready(root)
    assert words[-1].startswith("built")
    assert list(folder.glob(".*")) == []
    assert_right(split, root)


def test_whoever_waits_says_so_and_then_reads(root):
    first, second = opened(root).train, opened(root).train
    building = first.prepare()
    next(building)
    # A lock binds other processes only: the second one waits in a process of its own.
    words, told = FORK.SimpleQueue(), FORK.SimpleQueue()

    def wait():
        for word in second.prepare():
            words.put(word)
        told.put(pixels(second))

    other = FORK.Process(target=wait)
    other.start()
    assert words.get() == f"waiting for the process that builds the image cache {second.folder}"
    list(building)
    found = told.get()
    other.join()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected(root), strict=True))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "complaint"),
    [
        ("pixels.bin", cut, r"pixels.bin is damaged: it has [\d,]+ bytes, not [\d,]+"),
        ("pixels.bin", Path.unlink, "pixels.bin is damaged: it has 0 bytes"),
        ("index.npy", flip, "index.npy is damaged: its content does not match"),
        ("index.npy", Path.unlink, "index.npy is damaged: it is missing"),
        ("cache.json", cut, "cache.json is damaged: "),
        ("cache.json", flip, "cache.json is damaged: "),
    ],
)
def test_a_damaged_cache_is_named_and_built_anew(root, file, damage, complaint):
    split, _ = ready(root)
    damage(split.folder / file)
    again, words = ready(root)
    assert re.search(rf"again, because .*{complaint}", words[0])
    assert re.search(complaint, words[-1])
    assert_right(again, root)


def test_a_changed_pixel_is_found_when_it_is_read(root):
    split, _ = ready(root)
    flip(split.folder / "pixels.bin")
    again, words = ready(root)
    assert words == []
    with pytest.raises(DamagedFileError, match=r"pixels.bin is damaged: image \d+ has another CRC"):
        pixels(again)
    third, words = ready(root)
    assert words
    assert_right(third, root)


def add(root):
    shutil.copy(root / "train/temple/0.jpg", root / "train/temple/new.jpg")


def remove(root):
    (root / "train/temple/0.jpg").unlink()


def replace(root):
    Image.new("RGB", (60, 40), "red").save(root / "train/temple/0.jpg")


def touch(root):
    os.utime(root / "train/temple/0.jpg", (1, 1))


@pytest.mark.parametrize("change", [add, remove, replace, touch])
def test_changed_images_are_cached_anew(root, change):
    ready(root)
    change(root)
    split, words = ready(root)
    assert re.search(rf"again, because {split.folder} is of other .*files: ", words[0])
    assert_right(split, root)


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_an_unreadable_image_is_named_as_without_a_cache(root, damage):
    path = root / "train" / "flower" / "1.jpg"
    content = path.read_bytes()
    path.write_bytes(b"no image" if damage == "text" else content[: len(content) // 2])
    split, words = ready(root)
    assert words[-1].startswith("built")
    assert split.image(0).size == (48, 32)
    with pytest.raises(UnreadableImage, match=r"flower/1\.jpg cannot be decoded"):
        split.image([split.split.name(i) for i in range(16)].index("train/flower/1.jpg"))


def test_too_small_a_disk_is_said_before_anything_is_written(root, folder, monkeypatch):
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(NoSpaceError) as caught:
        ready(root)
    size = sum(image.size for image in expected(root))
    assert str(caught.value).startswith(
        f"the image cache needs {size / 1000:.1f} kB, but {folder} has 1.0 kB free; "
        f"let {FOLDER_VARIABLE} name another folder"
    )
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_a_disk_that_fills_meanwhile_is_a_disk_too_small(root, folder, monkeypatch):
    def full(*unused):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoSpaceError, match="the image cache needs"):
        ready(root)
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_other_errors_of_the_disk_stay_what_they_are(root, monkeypatch):
    def broken(*unused):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(cache_builder.os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        ready(root)
    assert not isinstance(caught.value, NoSpaceError)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_loader_processes_change_no_bit(root, task):
    split, _ = ready(root)
    transform = train_transform(Recipe(image_size=24), task, GREY)
    drawn = [
        list(train_loader(split, transform, batch_size=4, seed=0, epoch=0, num_workers=workers))
        for workers in (0, 2)
    ]
    assert len(drawn[0]) == 4
    for batch, same in zip(*drawn, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))


def test_loader_processes_share_the_file(root):
    split, _ = ready(root)
    file = split.folder / "pixels.bin"

    def maps(image):
        """Process, inode and whether it is shared, for every map of the file."""
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        own = [line for line in lines if line[-1] == str(file)]
        return torch.tensor([[os.getpid(), int(line[4]), line[1] == "r--s"] for line in own])

    loader = eval_loader(split, maps, batch_size=1, num_workers=2)
    process, inode, shared = torch.cat([found for found, _, _ in loader])[:, 0].T
    assert len(process) == len(split)
    assert len(process.unique()) == 2
    assert os.getpid() not in process
    assert (inode == file.stat().st_ino).all()
    assert shared.all()


def test_pickled_it_is_its_file_and_not_its_pixels(root):
    small, _ = ready(root)
    large, _ = ready(root, side=64)
    sizes = [len(pickle.dumps(split)) for split in (small, large)]
    assert sizes[0] == sizes[1]
    assert_right(pickle.loads(pickle.dumps(small)), root)


def test_evaluation_sees_the_same_where_the_cache_has_its_size(root):
    recipe = Recipe(image_size=28)
    transform = eval_transform(recipe, "single_label")
    split, _ = ready(root, side=int(28 / recipe.crop_ratio))
    plain = open_dataset("folder", root).train
    for index in range(len(plain)):
        assert torch.equal(transform(split.image(index)), transform(plain.image(index)))


def test_a_cell_prepares_its_images_and_then_trains_on_them(make_cell, finetune, image_folder):
    fields = {"cache": 32, "epochs": 1, "warmup_epochs": 0, "accumulation": 4}
    weights = []
    for workers in (0, 2):
        finetuning = finetune(make_cell(**fields, loader_workers=workers))
        first = finetuning.run(until=lambda: False)
        if not workers:  # The second cell finds the cache.
            assert first.preparing.startswith("built the image cache ")
            assert (first.step, first.loss, first.finished) == (0, None, False)
            first = finetuning.run(until=lambda: False)
        assert (first.preparing, first.finished) == (None, True)
        weights.append(finetuning.model.state_dict())
    plain = finetune(make_cell(**fields | {"cache": None}))
    assert plain.run(until=lambda: False).finished
    # The digits have 32 pixels already: here a cache changes nothing.
    for other in (weights[1], plain.model.state_dict()):
        assert all(torch.equal(weights[0][name], other[name]) for name in weights[0])


def test_preparing_goes_on_where_it_was_stopped(make_cell, finetune):
    finetuning = finetune(make_cell(cache=32))
    said = []
    while (report := finetuning.run(until=lambda: True)).preparing:
        said.append(report.preparing)
    assert report.step == 1
    assert [sum(word.startswith(start) for word in said) for start in ("building", "built")] == [
        14,
        2,
    ]


def test_a_cell_that_is_closed_leaves_no_half_built_cache(
    make_cell, finetune, folder, own_processes
):
    finetuning = finetune(make_cell(cache=32))
    assert finetuning.run(until=lambda: True).preparing.startswith("building")
    assert list(folder.glob(".*"))
    assert own_processes()
    finetuning.close()
    assert list(folder.glob(".*")) == []
    assert not own_processes()
    assert finetuning.run(until=lambda: False).preparing.startswith("built")
