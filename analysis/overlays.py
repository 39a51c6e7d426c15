"""What a method did to the patches of one image, as letters that a drawing follows.

An overlay is a string with a letter for every patch of the image, row by row: `KEPT` and `DROPPED`
for methods that drop patches, for others a letter of `COLOUR_LETTERS` that says how the patch's
group is coloured. Patches that touch have the same letter only where they belong together, so
that borders can be drawn where letters change.
"""

import string
from collections import Counter
from itertools import chain, pairwise

import numpy as np

KEPT, DROPPED = "+", "."
COLOUR_LETTERS = string.digits + string.ascii_letters
"""Letter i stands for colour i."""
HUES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#f2f2f2")
"""Colours that any common colour vision can tell apart (Okabe and Ito, 2008), and a light grey;
colour i has hue i modulo their number."""


def kept_overlay(kept: np.ndarray, num_patches: int) -> str:
    """Return the overlay of one image's kept patches.

    Args:
        kept: Indices of the kept patches, [K]; values outside 0..num_patches-1 are padding.
        num_patches: N.
    """
    letters = np.full(num_patches, DROPPED)
    letters[kept[(kept >= 0) & (kept < num_patches)]] = KEPT
    return "".join(letters)


def group_overlay(groups: np.ndarray, grid: tuple[int, int]) -> str:
    """Return the overlay of one image's groups of patches.

    Up to as many groups as there are hues have a colour each, the largest group the first one.
    With more, groups share colours, but never with a group that they touch. (That takes k colours
    only where every two of them touch somewhere, so k (k - 1) / 2 is at most the number of
    touching patches: k <= 27 on 14 x 14 patches.)

    Args:
        groups: Label of each patch's group, integers [N].
        grid: Rows and columns of patches.

    Raises:
        ValueError: The groups take more colours than there are letters.
    """
    labels = groups.reshape(grid).tolist()
    touching = _touching(labels)
    coloured: dict[int, int] = {}
    used: Counter[int] = Counter()
    for label, _ in Counter(chain.from_iterable(labels)).most_common():
        taken = {coloured[other] for other in touching.get(label, ()) if other in coloured}
        coloured[label] = colour = _free_colour(taken, used)
        used[colour] += 1
    if max(used) >= len(COLOUR_LETTERS):
        raise ValueError(f"groups take {max(used) + 1} colours; there are {len(COLOUR_LETTERS)}")
    return "".join(COLOUR_LETTERS[coloured[label]] for label in chain.from_iterable(labels))


def _touching(labels: list[list[int]]) -> dict[int, set[int]]:
    """Return the groups that share a side of a patch with each group."""
    beside = [pair for row in labels for pair in pairwise(row)]
    below = [pair for column in zip(*labels, strict=True) for pair in pairwise(column)]
    touching: dict[int, set[int]] = {}
    for one, other in beside + below:
        if one != other:
            touching.setdefault(one, set()).add(other)
            touching.setdefault(other, set()).add(one)
    return touching


def _free_colour(taken: set[int], used: Counter[int]) -> int:
    """Return the hue that the fewest groups have, or where none is free the first free colour."""
    free = [colour for colour in range(len(HUES)) if colour not in taken]
    if free:
        return min(free, key=lambda colour: (used[colour], colour))
    return next(colour for colour in range(len(HUES), len(taken) + 1) if colour not in taken)
