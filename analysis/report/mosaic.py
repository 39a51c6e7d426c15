"""Overlays as a figure: the chosen images, with what each method did to their tokens."""

import io
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from analysis.overlays import COLOUR_LETTERS, DROPPED, HUES, KEPT
from analysis.report.drawing import DOTS_PER_INCH, Format, drawing_of, encoded
from analysis.report.style import INK, THEME
from reduction.painting import DROPPED_OPACITY, GREY, WHITE, Pixels, painted

TILE = 112
"""Side of a drawn image in pixels, or a little less or more for whole pixels a patch."""
GAP, LINE = 8, 20
"""Pixels between tiles, and of a line of text."""
LETTER = 7.5
"""Pixels that a letter takes on average."""
GROUP_OPACITY = 0.55


class MosaicRow(NamedTuple):
    """One image."""

    title: str
    picture: str | None
    """Data URI, if there is a picture."""
    answers: Sequence[str]
    """Of each method."""
    overlays: Sequence[Sequence[str | None]]
    """After each block, of each method."""


class Words(NamedTuple):
    """A piece of text; (x, y) is the left end of its middle line, in pixels."""

    x: float
    y: float
    text: str
    upright: bool = False


@dataclass(frozen=True)
class Mosaic:
    """Images down, each with its blocks, and methods across."""

    grid: tuple[int, int]
    methods: Sequence[str]
    blocks: Sequence[int]
    images: Sequence[MosaicRow]

    def draw(self) -> Mapping[Format, bytes]:
        """Return the file of each format."""
        pixels = self._pixels()
        height, width = pixels.shape[:2]
        with drawing_of(width / DOTS_PER_INCH, height / DOTS_PER_INCH) as drawing:
            axis = drawing.add_axes((0, 0, 1, 1))
            axis.set_axis_off()
            axis.imshow(pixels, extent=(0, width, height, 0), interpolation="none")
            for words in self._words():
                axis.text(
                    words.x,
                    words.y,
                    words.text.replace("$", r"\$"),
                    rotation=90 if words.upright else 0,
                    ha="center" if words.upright else "left",
                    va="center",
                    size=6,
                    color=THEME[INK],
                )
            return encoded(drawing)

    @property
    def _tile(self) -> tuple[int, int]:
        """Height and width of a tile: whole pixels a patch."""
        rows, columns = self.grid
        patch = max(1, round(TILE / max(rows, columns)))
        return rows * patch, columns * patch

    def _left(self, column: int) -> int:
        """Left end of a method's tiles; on their left are the plain picture and a line of text."""
        return self._tile[1] + GAP + LINE + column * (self._tile[1] + GAP)

    def _top(self, image: int, block: int = 0) -> int:
        """Upper end of an image's tiles after a block, by its place."""
        step = self._tile[0] + GAP
        return 2 * LINE + image * (LINE + GAP + len(self.blocks) * step) + block * step

    def _pixels(self) -> Pixels:
        size = (self._top(len(self.images)) - LINE, self._left(len(self.methods)))
        pixels = np.full((*size, 3), WHITE, dtype=np.uint8)
        for x, y, tile in self._tiles():
            pixels[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        return pixels

    def _tiles(self) -> Iterator[tuple[int, int, Pixels]]:
        for place, row in enumerate(self.images):
            plain = picture_pixels(row.picture, self._tile)
            yield 0, self._top(place), plain
            for block, overlays in enumerate(row.overlays):
                for column, overlay in enumerate(overlays):
                    if overlay is not None:
                        tile = overlaid(plain, overlay, self.grid)
                        yield self._left(column), self._top(place, block), tile

    def _words(self) -> Iterator[Words]:
        for column, method in enumerate(self.methods):
            yield Words(self._left(column), LINE / 2, method)
        for place, row in enumerate(self.images):
            line = self._top(place) - LINE / 2
            yield Words(0, line, self._shortened(row.title))
            for column, answer in enumerate(row.answers):
                yield Words(self._left(column), line, self._shortened(answer))
            for number, block in enumerate(self.blocks):
                middle = self._top(place, number) + self._tile[0] / 2
                yield Words(self._left(0) - LINE / 2, middle, f"block {block}", upright=True)

    def _shortened(self, text: str) -> str:
        most = int((self._tile[1] + GAP) / LETTER)
        return text if len(text) <= most else f"{text[: most - 1]}…"


def picture_pixels(picture: str | None, size: tuple[int, int]) -> Pixels:
    """Return a picture, given as a data URI, as RGB, uint8 [height, width, 3]; grey for none."""
    height, width = size
    if picture is None:
        return np.full((height, width, 3), GREY, dtype=np.uint8)
    with Image.open(io.BytesIO(b64decode(picture.partition(",")[2]))) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def overlaid(pixels: Pixels, overlay: str, grid: tuple[int, int]) -> Pixels:
    """Draw an overlay over an image: grey or coloured patches, and borders where they end.

    Args:
        pixels: RGB, uint8 [height, width, 3]; whole pixels a patch.
        overlay: As in `analysis.overlays`.
        grid: Rows and columns of patches.
    """
    letters = np.array(list(overlay)).reshape(grid)
    looks = {letter: _look(letter) for letter in set(overlay)}
    paint = np.array([[looks[letter] for letter in row] for row in letters])
    return painted(pixels, letters, paint[..., :3], paint[..., 3])


def _look(letter: str) -> tuple[float, ...]:
    """Return red, green, blue and opacity of a patch."""
    if letter == KEPT:
        return (0, 0, 0, 0)
    if letter == DROPPED:
        return (*GREY, DROPPED_OPACITY)
    hue = HUES[COLOUR_LETTERS.index(letter) % len(HUES)]
    return (*(int(hue[i : i + 2], 16) for i in (1, 3, 5)), GROUP_OPACITY)
