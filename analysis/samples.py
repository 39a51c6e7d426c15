"""The few images of a study on which the report shows what each method did to the tokens.

A setting is what the cells that are shown side by side have in common: dataset, capacity,
reduction blocks and seed.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from analysis.image_choice import Rule, agreement, choose
from analysis.overlays import group_overlay, kept_overlay
from analysis.patterns import kept_masks
from analysis.records import CellArtifacts, CellRecord, cells_at_rate

IMAGES_PER_RULE = 3
UNREDUCED, IGNORES_IMAGES = "baseline", "control"
"""Families: the models without reduction; methods whose patterns do not depend on the image."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SampledImage(_Model):
    """An image that was chosen."""

    image: int
    """Index in the evaluation split."""
    rule: Rule
    """What it was chosen by, see `analysis.image_choice.choose`."""
    labels: tuple[int, ...]
    """Its classes: one, or of several labels any number."""
    picture: Annotated[str, Field(pattern=r"^data:image/(png|jpeg);base64,[\w+/=]+$")] | None = None
    """What the models saw, not normalised; None where the dataset was not at hand."""


class SampledCell(_Model):
    """What one cell made of every chosen image, in their order."""

    cell_id: str
    predicted: tuple[tuple[int, ...], ...]
    """The likeliest classes, as many as the image has labels."""
    right: tuple[bool, ...]
    """Whether these are the labels."""
    overlays: dict[int, tuple[str, ...]]
    """Overlays (`analysis.overlays`) after each reduction block; empty for the baseline."""


class Sample(_Model):
    """The chosen images of a setting, and what its cells made of them."""

    inputs: dict[str, str]
    """What it was made from: the evaluation of each cell, by id."""
    keep_rate: float
    """The rate at which the images were chosen."""
    images: int
    """How many they were chosen from."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    chosen: tuple[SampledImage, ...]
    cells: tuple[SampledCell, ...]
    class_names: dict[int, str] = {}
    """Of the classes that occur; empty where the dataset was not at hand."""
    note: str | None = None
    """Why there are no pictures, if there are none."""

    @property
    def classes(self) -> set[int]:
        """All classes that are labels of an image or a cell's answer."""
        named = [image.labels for image in self.chosen]
        named += [classes for cell in self.cells for classes in cell.predicted]
        return set(chain.from_iterable(named))


class EvaluatedCell(NamedTuple):
    """What the evaluation of a cell left."""

    artifacts: CellArtifacts
    """The patterns are used, the features are not."""
    predictions: pd.DataFrame
    """A row an image: `image`, and `target` with `class_1` or `scores` where there are labels."""


class SampleAnswers(NamedTuple):
    """What a cell says about some images, each field in their order."""

    labels: list[tuple[int, ...]]
    predicted: list[tuple[int, ...]]
    """As in `SampledCell`, ascending."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the predicted classes are the labels, bool [images]."""
        pairs = zip(self.labels, self.predicted, strict=True)
        return np.array([labels == predicted for labels, predicted in pairs], dtype=np.bool_)


def rate_to_choose_at(records: Sequence[CellRecord]) -> float | None:
    """Return the keep rate at which most methods of a setting meet, the lowest of several.

    None where no cell reduces tokens.
    """
    rates = {record.keep_rate for record in records if record.family != UNREDUCED}

    def methods(rate: float) -> int:
        return len({record.method for record in cells_at_rate(records, rate)})

    return max(sorted(rates), key=methods, default=None)


def sample(
    records: Sequence[CellRecord],
    rate: float,
    load: Callable[[CellRecord], EvaluatedCell],
    inputs: Mapping[str, str],
) -> Sample:
    """Choose images of a setting, and collect what every cell made of them.

    The images are chosen by the answers of all cells that meet at one keep rate, and by the
    patterns of those whose method looks at the image.

    Args:
        records: All evaluated cells of the setting.
        rate: The keep rate at which to choose.
        load: Returns what the evaluation of a cell left; called again rather than kept.
        inputs: What identifies the evaluation of each cell, by id.

    Raises:
        ValueError: The cells were not evaluated on the same images.
    """
    choosing = cells_at_rate(records, rate)
    views = [_View.of(load(record)) for record in choosing]
    images = views[0].images
    if not all(np.array_equal(view.images, images) for view in views):
        names = ", ".join(record.cell_id for record in choosing)
        raise ValueError(f"{names} were not all evaluated on the same images")
    chosen = choose(
        images,
        agreement([view.kept for view in views], [view.groups for view in views]),
        np.stack([view.right for view in views]),
        count=IMAGES_PER_RULE,
    )
    ids = [image for of_rule in chosen.values() for image in of_rule]
    first = load(choosing[0])
    labels = dict(zip(ids, answers(first.predictions, ids).labels, strict=True))
    return Sample(
        inputs=dict(inputs),
        keep_rate=rate,
        images=len(images),
        grid=first.artifacts.grid,
        chosen=tuple(
            SampledImage(image=image, rule=rule, labels=labels[image])
            for rule, of_rule in chosen.items()
            for image in of_rule
        ),
        cells=tuple(sampled_cell(load(record), ids) for record in records),
    )


def sampled_cell(cell: EvaluatedCell, images: Sequence[int]) -> SampledCell:
    """Return what a cell made of some of its images, given by their ids."""
    artifacts = cell.artifacts
    places = {image: place for place, image in enumerate(artifacts.images.tolist())}
    rows = [places[image] for image in images]
    overlays = {
        block: tuple(kept_overlay(row, artifacts.num_patches) for row in kept[rows])
        for block, kept in artifacts.kept.items()
    }
    overlays |= {
        block: tuple(group_overlay(row, artifacts.grid) for row in groups[rows])
        for block, groups in artifacts.groups.items()
    }
    found = answers(cell.predictions, images)
    return SampledCell(
        cell_id=artifacts.record.cell_id,
        predicted=tuple(found.predicted),
        right=tuple(found.right.tolist()),
        overlays=overlays,
    )


def answers(predictions: pd.DataFrame, images: Sequence[int] | np.ndarray) -> SampleAnswers:
    """Return the labels and the predicted classes of some images.

    Of an image with k labels the k likeliest classes are the predicted ones, so that an image of
    several labels is right where every label is likelier than every other class, whatever
    threshold of probability one would choose.
    """
    rows = predictions.set_index("image").loc[np.asarray(images)]
    if "target" not in rows:
        return SampleAnswers([()] * len(rows), [()] * len(rows))
    if "scores" not in rows:
        labels, best = (rows[name].to_numpy()[:, None].tolist() for name in ("target", "class_1"))
        return SampleAnswers([tuple(row) for row in labels], [tuple(row) for row in best])
    labels = [tuple(sorted(map(int, target))) for target in rows["target"]]
    ranked = np.argsort(-np.stack(list(rows["scores"])), axis=1, kind="stable")
    best = [sorted(row[: len(of)].tolist()) for row, of in zip(ranked, labels, strict=True)]
    return SampleAnswers(labels, [tuple(row) for row in best])


class _View(NamedTuple):
    """What the choice needs of one cell, its images in ascending order."""

    images: np.ndarray
    kept: dict[int, NDArray[np.bool_]]
    groups: dict[int, np.ndarray]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, cell: EvaluatedCell) -> "_View":
        artifacts = cell.artifacts
        order = np.argsort(artifacts.images)
        images = artifacts.images[order]
        looks = artifacts.record.family != IGNORES_IMAGES
        masks = {b: kept_masks(k[order], artifacts.num_patches) for b, k in artifacts.kept.items()}
        groups = {block: groups[order] for block, groups in artifacts.groups.items()}
        right = answers(cell.predictions, images).right
        return cls(images, masks if looks else {}, groups if looks else {}, right)
