"""Augmentation and preprocessing against PIL alone, and the ranges they may move in."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from trainables.data import open_dataset
from trainables.data.transforms import Cutout, erasing, eval_transform, train_transform
from trainables.recipe import Recipe

MEAN = (0.485, 0.456, 0.406)
PLAIN = {
    "image_size": 64,
    "crop_scale": (1.0, 1.0),
    "horizontal_flip": 0.0,
    "color_jitter": 0.0,
    "rand_augment": None,
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


def assert_shows(pixels, image):
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize(("crop_ratio", "short_side"), [(0.875, 73), (0.9, 71), (1.0, 64)])
def test_evaluation_resizes_the_short_side_and_crops_the_centre(photograph, crop_ratio, short_side):
    recipe = Recipe(image_size=64, crop_ratio=crop_ratio)
    ours = eval_transform(recipe, "single_label")(photograph)
    long_side = int(short_side * 96 / 72)
    resized = photograph.resize((long_side, short_side), Image.Resampling.BICUBIC)
    left, upper = round((long_side - 64) / 2), round((short_side - 64) / 2)
    assert_shows(ours, resized.crop((left, upper, left + 64, upper + 64)))


def test_multi_label_evaluation_squashes_the_whole_image(photograph):
    recipe = Recipe(image_size=64, crop_ratio=0.875)
    ours = eval_transform(recipe, "multi_label")(photograph)
    assert_shows(ours, photograph.resize((64, 64), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_evaluation_does_not_resample_an_image_of_the_right_size(task):
    image = open_dataset("digits").val.image(0)
    ours = eval_transform(Recipe(image_size=32, crop_ratio=1.0), task)(image)
    assert_shows(ours, image)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_augmented_images_are_pixels_of_the_size_and_all_differ(photograph, task):
    transform = train_transform(Recipe(image_size=48), task, MEAN)
    outcomes = [transform(photograph) for _ in range(30)]
    for outcome in outcomes:
        assert outcome.dtype == torch.uint8
        assert outcome.shape == (3, 48, 48)
    assert len({outcome.numpy().tobytes() for outcome in outcomes}) == 30


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_the_photograph_given_is_left_as_it_was(photograph, task):
    before = photograph.tobytes()
    transform = train_transform(Recipe(image_size=72), task, MEAN)
    for _ in range(10):
        transform(photograph)
    assert photograph.tobytes() == before


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_a_recipe_without_augmentation_trains_on_the_evaluation_image(photograph, task):
    square = photograph.crop((0, 0, 72, 72)) if task == "single_label" else photograph
    recipe = Recipe(**PLAIN, crop_ratio=1.0)
    augmented = train_transform(recipe, task, MEAN)
    evaluated = eval_transform(recipe, task)(square).int()
    # Random resized crop still draws an aspect ratio; of ten draws some fall back to the whole.
    differences = [(augmented(square) - evaluated).abs().max() for _ in range(50)]
    assert min(differences) == 0
    if task == "multi_label":
        assert max(differences) == 0


def test_flipping_mirrors_single_label_images_only(photograph):
    always = Recipe(**PLAIN | {"horizontal_flip": 1.0})
    never = Recipe(**PLAIN)
    for task, mirrored in (("single_label", True), ("multi_label", False)):
        seed(1)
        flipped = train_transform(always, task, MEAN)(photograph)
        seed(1)
        straight = train_transform(never, task, MEAN)(photograph)
        assert torch.equal(flipped, straight.flip(-1) if mirrored else straight)


def test_crops_take_the_share_of_the_area_they_may():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    image = Image.fromarray(np.stack([ramp, ramp.T, ramp], axis=-1))
    recipe = Recipe(**PLAIN | {"crop_scale": (0.25, 0.5)})
    transform = train_transform(recipe, "single_label", MEAN)
    for _ in range(50):
        pixels = transform(image) / 255
        width = pixels[0].max() - pixels[0].min()
        height = pixels[1].max() - pixels[1].min()
        assert 0.2 < width * height < 0.55


def test_color_jitter_acts_where_rand_augment_is_off(photograph):
    def outcome(**changes):
        seed(2)
        recipe = Recipe(**PLAIN | changes)
        return train_transform(recipe, "single_label", MEAN)(photograph)

    on = {"rand_augment": "rand-m9-mstd0.5-inc1"}
    assert torch.equal(outcome(**on, color_jitter=0.9), outcome(**on, color_jitter=0.0))
    assert (outcome(color_jitter=0.9).int() - outcome(color_jitter=0.0)).abs().max() > 5


def test_only_single_label_images_are_erased_and_only_where_the_recipe_says_so():
    assert erasing(Recipe(random_erasing=0.5), "multi_label") is None
    assert erasing(Recipe(random_erasing=0.0), "single_label") is None
    draws = [erasing(Recipe(random_erasing=0.5), "single_label")(32, 32) for _ in range(100)]
    assert 25 < sum(bool(box.any()) for box, _ in draws) < 75


def test_the_strongest_posterising_gives_a_black_image(photograph):
    recipe = Recipe(**PLAIN | {"rand_augment": "rand-m10-n1-p1-inc1"})
    for task in ("single_label", "multi_label"):
        transform = train_transform(recipe, task, MEAN)
        outcomes = torch.stack([transform(photograph) for _ in range(100)])
        is_black = (outcomes == 0).all(dim=(1, 2, 3))
        assert 0 < is_black.sum() < 30  # one of 15 operations


def test_transforms_can_be_sent_to_other_processes(photograph):
    for task in ("single_label", "multi_label"):
        transform = train_transform(Recipe(image_size=32), task, MEAN)
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
