"""The embedded datasets: sizes, contents, and that no evaluation digit is trained on."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from trainables.data import DATASETS, open_dataset
from trainables.data.digits import SOURCE, digit_splits


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


@pytest.fixture(scope="module")
def mosaics():
    return open_dataset("digits_multi")


def grey(split, index):
    channels = np.asarray(split.image(index))
    assert (channels == channels[..., :1]).all()
    return channels[..., 0]


def test_listing_and_refusing_names_imports_no_heavy_package():
    code = (
        "import sys\n"
        "from trainables.data import DATASETS\n"
        "print(*sorted({'torch', 'sklearn', 'timm'} & set(sys.modules)), len(DATASETS))"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == [str(len(DATASETS))]


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^dataset is 'digit', but must be one of aircraft, "):
        open_dataset("digit")


def test_digits_are_those_of_the_source(digits):
    assert (digits.name, digits.task, digits.metric) == ("digits", "single_label", "top1")
    assert digits.class_names == tuple("0123456789")
    assert (len(digits.train), len(digits.val)) == (1437, 360)

    image = digits.train.image(0)
    assert (image.mode, image.size) == ("RGB", (32, 32))
    means = [grey(digits.train, i).mean() for i in range(len(digits.train))]
    means += [grey(digits.val, i).mean() for i in range(len(digits.val))]
    expected = load_digits().images.mean(axis=(1, 2)) * 255 / 16
    # Bicubic weights reach beyond the border, where nothing is: means agree but for that.
    np.testing.assert_allclose(np.sort(means), np.sort(expected), atol=4)


def test_the_file_holds_what_scikit_learn_gives_and_how_it_is_parted():
    given = load_digits()
    parts = train_test_split(
        np.arange(len(given.target)), test_size=0.2, stratify=given.target, random_state=0
    )
    with np.load(SOURCE) as file:
        assert (file["images"] == given.images).all()
        assert (file["classes"] == given.target).all()
        for name, part in zip(("train", "val"), parts, strict=True):
            assert file[name].tolist() == part.tolist()


def test_every_class_has_its_share_in_both_splits(digits):
    source = np.bincount(load_digits().target)
    train = np.bincount([digits.train.target(i) for i in range(1437)])
    val = np.bincount([digits.val.target(i) for i in range(360)])
    assert (train + val == source).all()
    np.testing.assert_allclose(val / source, 0.2, atol=0.005)


def test_opening_again_gives_the_same_digits(digits):
    again = open_dataset("digits")
    for part, same in ((digits.train, again.train), (digits.val, again.val)):
        assert (part.pixels == same.pixels).all()
        assert (part.targets == same.targets).all()


def test_no_digit_is_in_both_splits(digits):
    seen = {digits.train.pixels[i].tobytes() for i in range(len(digits.train))}
    assert len(seen) == 1437
    assert not seen & {digits.val.pixels[i].tobytes() for i in range(len(digits.val))}


def test_mosaics_have_one_to_four_digits(mosaics):
    assert (mosaics.task, mosaics.metric) == ("multi_label", "map")
    assert (len(mosaics.train), len(mosaics.val)) == (1437, 720)
    for split in (mosaics.train, mosaics.val):
        assert split.image(0).size == (32, 32)
        assert split.target(0).dtype == np.float32
        labels = np.stack([split.target(i) for i in range(len(split))])
        assert set(np.unique(labels)) == {0, 1}
        assert set(np.unique(labels.sum(axis=1))) == {1, 2, 3, 4}
        assert labels.mean(axis=0).min() > 0.15


@pytest.mark.parametrize("part", ["train", "val"])
def test_mosaics_show_the_digits_of_their_own_split_and_no_others(mosaics, part):
    own = dict(zip(("train", "val"), digit_splits(16), strict=True))[part]
    label_of = {own.pixels[i].tobytes(): own.target(i) for i in range(len(own))}
    split = getattr(mosaics, part)
    for i in range(len(split)):
        image = grey(split, i)
        tiles = [image[y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16)]
        shown = {label_of[tile.tobytes()] for tile in tiles if tile.any()}
        assert set(np.flatnonzero(split.target(i))) == shown
