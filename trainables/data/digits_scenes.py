"""Scenes with one handwritten digit in them, embedded: which digit is it?

One whole digit and two or three pieces of others on a dimmed crop of a photograph, so that most of
an image does not matter. As in the cluttered digits of Mnih et al., "Recurrent Models of Visual
Attention", NIPS 2014. Digits lie away from the middle: a method that keeps the middle of every
image gains nothing by it.

A scene is a function of its split and number. Training and evaluation scenes have different digits
and different halves of the photographs (`photographs.npz`, credited in `photographs.md`). The
evaluation shows each of its digits seven times; such scenes are not independent, which
`ImageDataset.units` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from trainables.data.base import ImageDataset, LabelledSplit
from trainables.data.digits import CLASS_NAMES, digit_splits

SIDE = 64
"""Side of the scenes, in pixels."""
GLYPH_SIDES = (28, 32)
"""Sides of a whole digit, in pixels. Pieces are cut from digits of these sides."""
LATTICE = 4
"""The corner of a whole digit is at multiples of this many pixels."""
OFF_MIDDLE = 14
"""Least distance of a digit's centre from the scene's, in pixels, across or down."""
PIECES = (2, 3)
PIECE_SHARE = 0.4
"""Side of a piece as a share of its digit's."""
PHOTOGRAPHS = Path(__file__).with_name("photographs.npz")
PHOTOGRAPH_SCALES = (1.0, 0.6)
PHOTOGRAPH_GAIN = 0.45
GLYPH_GAIN = 1.2
DARKEST_INK = 165
FAINTEST = 0.75
"""Least opacity of a digit or piece; the most is 1."""
TRAIN_SCENES = 2 * 1437
VAL_SCENES = 7 * 360
TRAIN_SEED, VAL_SEED = 0, 1

T = TypeVar("T")


class Scene(NamedTuple):
    """A drawn scene."""

    pixels: np.ndarray
    """uint8 [64, 64, 3]."""
    cover: np.ndarray
    """Where the whole digit is: its opacity, uint8 [64, 64]."""


@dataclass(frozen=True, eq=False)
class SceneMaterial:
    """What the scenes of one split are drawn from."""

    classes: np.ndarray
    """Class of each digit, int64 [digits]."""
    glyphs: dict[int, tuple[np.ndarray, ...]]
    """Side in pixels -> opacity of each digit, 0 to 255, int32 [side, side]."""
    photographs: tuple[np.ndarray, ...]
    """Dimmed, int32 [height, width, 3]."""

    def draw(self, digit: int, random: np.random.Generator, clutter: float = 1.0) -> Scene:
        """Draw a scene.

        Args:
            digit: Index of the digit to show.
            random: Decides on everything else.
            clutter: Brightness of the photograph and share of the pieces, in [0, 1].
        """
        canvas = (self._background(random) * clutter).astype(np.int32)
        for _ in range(round(clutter * random.integers(PIECES[0], PIECES[1] + 1))):
            piece = self._piece(random)
            top, left = random.integers(SIDE - len(piece) + 1, size=2)
            _paint(canvas[top:, left:], piece, random)
        glyph = self.glyphs[_one_of(GLYPH_SIDES, random)][digit]
        top, left = _one_of(_places(len(glyph)), random)
        _paint(canvas[top:, left:], glyph, random)
        cover = np.zeros((SIDE, SIDE), dtype=np.uint8)
        cover[top : top + len(glyph), left : left + len(glyph)] = glyph
        return Scene(canvas.astype(np.uint8), cover)

    def _background(self, random: np.random.Generator) -> np.ndarray:
        return _crop(_one_of(self.photographs, random), SIDE, random)

    def _piece(self, random: np.random.Generator) -> np.ndarray:
        side = _one_of(GLYPH_SIDES, random)
        glyph = _one_of(self.glyphs[side], random)
        return _crop(glyph, round(side * PIECE_SHARE), random)


@dataclass(frozen=True, eq=False)
class SceneSplit(LabelledSplit):
    """Scenes that are drawn when they are asked for, every digit equally often."""

    material: SceneMaterial
    seed: int

    def scene(self, index: int) -> Scene:
        """Draw scene `index`."""
        digit = index % len(self.material.classes)
        return self.material.draw(digit, np.random.default_rng([self.seed, index]))

    def image(self, index: int) -> Image.Image:
        """Draw image `index`, in mode RGB."""
        return Image.fromarray(self.scene(index).pixels)


def open_dataset() -> ImageDataset:
    """Open the scenes: 2,874 to train and 2,520 of 360 other digits to evaluate."""
    train, val = scene_splits()
    units = np.arange(VAL_SCENES) % len(val.material.classes)
    return ImageDataset("digits_scenes", "single_label", CLASS_NAMES, train, val, units=units)


def scene_splits() -> tuple[SceneSplit, SceneSplit]:
    """Return the training and the evaluation scenes."""
    of_train, of_val = scene_materials()
    return (
        _split(of_train, TRAIN_SCENES, TRAIN_SEED),
        _split(of_val, VAL_SCENES, VAL_SEED),
    )


def scene_materials() -> tuple[SceneMaterial, SceneMaterial]:
    """Return what training and evaluation scenes are drawn from; they share nothing."""
    digits = {side: digit_splits(side) for side in GLYPH_SIDES}
    with np.load(PHOTOGRAPHS) as file:
        halves = [np.array_split(photograph, 2, axis=1) for photograph in file.values()]
    train, val = (
        SceneMaterial(
            classes=digits[GLYPH_SIDES[0]][part].targets,
            glyphs={side: _opacities(splits[part].pixels) for side, splits in digits.items()},
            photographs=tuple(
                _dimmed(half[part], scale) for half in halves for scale in PHOTOGRAPH_SCALES
            ),
        )
        for part in (0, 1)
    )
    return train, val


def _split(material: SceneMaterial, scenes: int, seed: int) -> SceneSplit:
    return SceneSplit(np.resize(material.classes, scenes), material, seed)


def _opacities(grey: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.minimum(np.rint(grey * GLYPH_GAIN), 255).astype(np.int32))


def _dimmed(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Return a photograph, uint8 [H, W, 3], at a part of its size and brightness, int32."""
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    return np.rint(np.asarray(resized) * PHOTOGRAPH_GAIN).astype(np.int32)


def _one_of(choices: Sequence[T], random: np.random.Generator) -> T:
    return choices[int(random.integers(len(choices)))]


def _crop(pixels: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    top = random.integers(pixels.shape[0] - side + 1)
    left = random.integers(pixels.shape[1] - side + 1)
    return pixels[top : top + side, left : left + side]


@cache
def _places(side: int) -> list[tuple[int, int]]:
    """Return the corners, top and left, at which a digit may be."""
    corners = range(0, SIDE - side + 1, LATTICE)
    middle = (SIDE - side) // 2
    return [
        (top, left)
        for top, left in product(corners, corners)
        if max(abs(top - middle), abs(left - middle)) >= OFF_MIDDLE
    ]


def _paint(canvas: np.ndarray, opacity: np.ndarray, random: np.random.Generator) -> None:
    """Paint a glyph, [side, side], into a canvas's top left corner, in a random light ink."""
    ink = random.integers(DARKEST_INK, 256, size=3)
    opacity = opacity * random.integers(round(256 * FAINTEST), 257) >> 8
    part = canvas[: len(opacity), : len(opacity)]
    part += (ink - part) * opacity[:, :, None] // 255
