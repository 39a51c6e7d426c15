"""Augmentation and preprocessing against PIL alone, and the ranges they may move in."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from trainables.data import open_dataset
from trainables.data.transforms import Cutout, eval_transform, train_transform
from trainables.recipe import Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = {
    "image_size": 64,
    "crop_scale": (1.0, 1.0),
    "horizontal_flip": 0.0,
    "color_jitter": 0.0,
    "rand_augment": None,
    "random_erasing": 0.0,
    "cutout": 0.0,
}
"""A recipe that augments nothing but the aspect ratio."""


@pytest.fixture(scope="module")
def photograph():
    return Image.fromarray(load_sample_image("china.jpg")).resize((96, 72), Image.Resampling.BOX)


@pytest.fixture(autouse=True)
def _seeded():
    seed(0)


def seed(number):
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - RandAugment draws from this generator
    torch.manual_seed(number)


def normalised(image):
    channels = (np.asarray(image, dtype=np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(channels.transpose(2, 0, 1))


def restored(tensor):
    """Undo the normalisation: pixels in [0, 1]."""
    return tensor * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def assert_equal_images(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("crop_ratio", "short_side"), [(0.875, 73), (0.9, 71), (1.0, 64)])
def test_evaluation_resizes_the_short_side_and_crops_the_centre(photograph, crop_ratio, short_side):
    ours = eval_transform(Recipe(image_size=64, crop_ratio=crop_ratio), "single_label", MEAN, STD)(
        photograph
    )
    long_side = int(short_side * 96 / 72)
    resized = photograph.resize((long_side, short_side), Image.Resampling.BICUBIC)
    left, upper = round((long_side - 64) / 2), round((short_side - 64) / 2)
    assert ours.dtype == torch.float32
    assert_equal_images(ours, normalised(resized.crop((left, upper, left + 64, upper + 64))))


def test_multi_label_evaluation_squashes_the_whole_image(photograph):
    recipe = Recipe(image_size=64, crop_ratio=0.875)
    ours = eval_transform(recipe, "multi_label", MEAN, STD)(photograph)
    assert_equal_images(ours, normalised(photograph.resize((64, 64), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_evaluation_does_not_resample_an_image_of_the_right_size(task):
    image = open_dataset("digits").val.image(0)
    ours = eval_transform(Recipe(image_size=32, crop_ratio=1.0), task, MEAN, STD)(image)
    assert_equal_images(ours, normalised(image))


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_augmented_images_have_the_size_and_stay_in_range(photograph, task):
    recipe = Recipe(image_size=48, random_erasing=0.0)
    transform = train_transform(recipe, task, MEAN, STD)
    outcomes = [transform(photograph) for _ in range(30)]
    for outcome in outcomes:
        assert outcome.dtype == torch.float32
        assert outcome.shape == (3, 48, 48)
        pixels = restored(outcome)
        assert pixels.min() >= -1e-6
        assert pixels.max() <= 1 + 1e-6
    assert len({outcome.numpy().tobytes() for outcome in outcomes}) == 30


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_the_photograph_given_is_left_as_it_was(photograph, task):
    before = photograph.tobytes()
    transform = train_transform(Recipe(image_size=72, random_erasing=1.0), task, MEAN, STD)
    for _ in range(10):
        transform(photograph)
    assert photograph.tobytes() == before


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_a_recipe_without_augmentation_trains_on_the_evaluation_image(photograph, task):
    square = photograph.crop((0, 0, 72, 72)) if task == "single_label" else photograph
    recipe = Recipe(**PLAIN, crop_ratio=1.0)
    augmented = train_transform(recipe, task, MEAN, STD)
    evaluated = eval_transform(recipe, task, MEAN, STD)(square)
    # Random resized crop still draws an aspect ratio; of ten draws some fall back to the whole.
    differences = [(augmented(square) - evaluated).abs().max() for _ in range(50)]
    assert min(differences) < 1e-5
    if task == "multi_label":
        assert max(differences) < 1e-5


def test_flipping_mirrors_single_label_images_only(photograph):
    always = Recipe(**PLAIN | {"horizontal_flip": 1.0})
    never = Recipe(**PLAIN)
    for task, mirrored in (("single_label", True), ("multi_label", False)):
        seed(1)
        flipped = train_transform(always, task, MEAN, STD)(photograph)
        seed(1)
        straight = train_transform(never, task, MEAN, STD)(photograph)
        assert_equal_images(flipped, straight.flip(-1) if mirrored else straight)


def test_crops_take_the_share_of_the_area_they_may():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    image = Image.fromarray(np.stack([ramp, ramp.T, ramp], axis=-1))
    recipe = Recipe(**PLAIN | {"crop_scale": (0.25, 0.5)})
    transform = train_transform(recipe, "single_label", MEAN, STD)
    for _ in range(50):
        pixels = restored(transform(image))
        width = pixels[0].max() - pixels[0].min()
        height = pixels[1].max() - pixels[1].min()
        assert 0.2 < width * height < 0.55


def test_color_jitter_acts_where_rand_augment_is_off(photograph):
    def outcome(**changes):
        seed(2)
        recipe = Recipe(**PLAIN | changes)
        return train_transform(recipe, "single_label", MEAN, STD)(photograph)

    on = {"rand_augment": "rand-m9-mstd0.5-inc1"}
    assert torch.equal(outcome(**on, color_jitter=0.9), outcome(**on, color_jitter=0.0))
    assert (outcome(color_jitter=0.9) - outcome(color_jitter=0.0)).abs().max() > 0.1


def test_random_erasing_fills_a_rectangle_with_normal_noise():
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    recipe = Recipe(**PLAIN | {"random_erasing": 1.0})
    outcome = train_transform(recipe, "single_label", MEAN, STD)(grey)
    erased = (outcome != normalised(grey)).all(dim=0)
    rows, columns = erased.any(dim=1).sum(), erased.any(dim=0).sum()
    assert erased.sum() == rows * columns
    assert 0.01 < erased.float().mean() < 0.34
    assert outcome[:, erased].std() == pytest.approx(1, abs=0.1)


def test_the_strongest_posterising_gives_a_black_image(photograph):
    recipe = Recipe(**PLAIN | {"rand_augment": "rand-m10-n1-p1-inc1"})
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    for task in ("single_label", "multi_label"):
        transform = train_transform(recipe, task, MEAN, STD)
        outcomes = torch.stack([transform(photograph) for _ in range(100)])
        is_black = ((outcomes - black[:, None, None]).abs() < 1e-5).all(dim=(1, 2, 3))
        assert 0 < is_black.sum() < 30  # one of 15 operations


def test_transforms_can_be_sent_to_other_processes(photograph):
    for task in ("single_label", "multi_label"):
        transform = train_transform(Recipe(image_size=32), task, MEAN, STD)
        copy = pickle.loads(pickle.dumps(transform))
        seed(3)
        expected = transform(photograph)
        seed(3)
        assert torch.equal(copy(photograph), expected)


@pytest.mark.parametrize("side", [0.25, 0.5])
def test_cutout_fills_one_square_with_one_colour(photograph, side):
    expected = (round(side * 72), round(side * 96))
    largest = np.zeros(2, dtype=int)
    for _ in range(200):
        image = np.asarray(Cutout(side)(photograph)).astype(int)
        changed = (image != np.asarray(photograph)).any(axis=-1)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        filled = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (filled == filled[0, 0]).all()
        extent = np.array([len(filled), len(filled[0])])
        assert (extent <= expected).all()
        # The centre lies in the image, so that half a side does at least.
        assert (extent >= np.array(expected) // 2).all()
        largest = np.maximum(largest, extent)
    assert tuple(largest) == expected


def test_no_cutout_changes_nothing(photograph):
    assert Cutout(0.0)(photograph).tobytes() == photograph.tobytes()
