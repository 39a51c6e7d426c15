"""The embedded scenes: where digits are, what splits share, and which scenes belong together."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from trainables.data import open_dataset
from trainables.data.digits import digit_splits
from trainables.data.digits_scenes import (
    GLYPH_SIDES,
    OFF_MIDDLE,
    PHOTOGRAPH_GAIN,
    PHOTOGRAPHS,
    SIDE,
    scene_materials,
)


@pytest.fixture(scope="module")
def scenes():
    return open_dataset("digits_scenes")


@pytest.fixture(scope="module")
def materials():
    return scene_materials()


def pixels(split, indices):
    return [np.asarray(split.image(index)) for index in indices]


def test_scenes_are_colour_images_of_one_digit(scenes):
    assert (scenes.name, scenes.task, scenes.metric) == ("digits_scenes", "single_label", "top1")
    assert (len(scenes.train), len(scenes.val)) == (2874, 2520)
    image = scenes.val.image(2519)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    assert (np.ptp(np.asarray(image), axis=2) > 0).any(), "inks have colours"


def test_a_scene_is_a_function_of_its_split_and_number(scenes):
    again = open_dataset("digits_scenes")
    numbers = [7, 2000, 3]
    for split, same in ((scenes.train, again.train), (scenes.val, again.val)):
        backwards = pixels(same, reversed(numbers))[::-1]
        assert all(map(np.array_equal, pixels(split, numbers), backwards))
    assert len({scene.tobytes() for scene in pixels(scenes.val, range(0, 2520, 360))}) == 7


@pytest.mark.parametrize(("part", "times"), [(0, 2), (1, 7)])
def test_every_digit_is_shown_equally_often_with_its_class(scenes, part, times):
    digits = digit_splits(32)[part]
    split = (scenes.train, scenes.val)[part]
    targets = np.array([split.target(index) for index in range(len(split))])
    assert (targets.reshape(times, len(digits)) == digits.targets).all()


def test_evaluation_scenes_of_a_digit_are_one_unit(scenes):
    assert scenes.units is not None
    assert scenes.units.shape == (2520,)
    assert (np.bincount(scenes.units) == 7).all()
    targets = np.array([scenes.val.target(index) for index in range(2520)])
    assert all(len(set(targets[scenes.units == unit])) == 1 for unit in range(360))


def test_splits_share_no_digit_and_no_part_of_a_photograph(materials):
    train, val = materials
    for side in GLYPH_SIDES:
        seen = {glyph.tobytes() for glyph in train.glyphs[side]}
        assert len(seen) == 1437
        assert not seen & {glyph.tobytes() for glyph in val.glyphs[side]}
    with np.load(PHOTOGRAPHS) as file:
        for name, left, right in zip(
            file, train.photographs[::2], val.photographs[::2], strict=True
        ):
            joined = np.concatenate([left, right], axis=1)
            np.testing.assert_array_equal(joined, np.rint(file[name] * PHOTOGRAPH_GAIN))


def test_the_digit_is_whole_away_from_the_middle_and_drawn_last(materials):
    random = np.random.default_rng(0)
    for digit in range(100):
        scene = materials[0].draw(digit, random)
        rows, columns = (np.flatnonzero(scene.cover.any(axis=axis)) for axis in (1, 0))
        glyphs = [glyphs[digit] for glyphs in materials[0].glyphs.values()]
        assert scene.cover.sum() in {glyph.sum() for glyph in glyphs}
        # The ink of a glyph ends up to a quarter of its side before its border.
        centre = max(abs(ends[[0, -1]].mean() - (SIDE - 1) / 2) for ends in (rows, columns))
        assert centre > OFF_MIDDLE - max(GLYPH_SIDES) / 8
        ink = scene.pixels[scene.cover == 255].astype(int)
        assert (np.ptp(ink, axis=0) < 256 * 0.25).all(), "the same ink wherever it covers"


def test_without_clutter_only_the_digit_is_drawn(materials):
    scene = materials[1].draw(5, np.random.default_rng(1), clutter=0.0)
    assert not scene.pixels[scene.cover == 0].any()
    assert scene.pixels.any()


def test_the_photographs_are_scikit_learns():
    with np.load(PHOTOGRAPHS) as file:
        assert set(file) == {"china", "flower"}
        for name in file:
            source = Image.fromarray(load_sample_image(f"{name}.jpg"))
            expected = np.asarray(source.resize((320, 213), Image.Resampling.LANCZOS)).astype(int)
            assert np.abs(file[name] - expected).max() <= 2, "decoders of JPEG differ"
