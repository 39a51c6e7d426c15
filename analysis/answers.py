"""What a cell answered for every image, in the compact form that comparing cells takes."""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.aliases import Floats, Row
from analysis.intervals import (
    clustered_wilson,
    percentile_interval,
    resampled_map,
    resampled_mean,
    resampled_quantile,
    wilson,
)


def prediction_arrays(predictions: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return of a cell's `predictions` what `Answers.of` takes, the images ascending.

    Returns:
        `image` [M] and `unit` [M]: the column `unit`, which names what images have in common
        that are not independent, or the image itself. Of a single label `right` [M], of several
        `scores` [M, classes] and `shown` [M, classes]. Of an embedding `cosine` and `neighbours`
        [M], in percent, and where there are labels `right`.
    """
    rows = predictions.sort_values("image")
    found = {"image": rows["image"].to_numpy(np.int64)}
    found["unit"] = rows["unit"].to_numpy(np.int64) if "unit" in rows else found["image"]
    if "cosine" in rows:
        found |= {name: rows[name].to_numpy(np.float64) for name in ("cosine", "neighbours")}
    if "scores" not in rows:
        labelled = "target" in rows
        right = {"right": (rows["target"] == rows["class_1"]).to_numpy()} if labelled else {}
        return found | right
    scores = np.stack(list(rows["scores"]))
    shown = np.zeros(scores.shape, dtype=np.bool_)
    for place, classes in enumerate(rows["target"]):
        shown[place, classes] = True
    return found | {"scores": scores, "shown": shown}


@dataclass(frozen=True, eq=False)
class Answers:
    """A cell's answers for M images, ascending by image."""

    image: NDArray[np.int64]
    """Index of each image in the evaluation split, [M]."""
    unit: NDArray[np.int64]
    """What each image belongs to that is independent of the rest, [M]: itself, or its source."""
    right: NDArray[np.bool_] | None = None
    """Single label: whether the likeliest class is the label, [M]."""
    score: float = np.nan
    """Several labels: mean average precision; embedding: mean cosine; in percent."""
    resampled: Floats | None = None
    """The same of every resample, [resamples], in percent."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Embedding: 95 % intervals of its other numbers by name, in percent."""

    @classmethod
    def of(cls, predictions: Mapping[str, np.ndarray]) -> Self:
        """Take what `prediction_arrays` returns; all but a single label is resampled."""
        image, unit = predictions["image"], predictions["unit"]
        if "cosine" in predictions:
            cosine = predictions["cosine"]
            found, others = resampled_mean(cosine, unit), _of_embedding(predictions)
            return cls(image, unit, score=cosine.mean(), resampled=found, intervals=others)
        if "right" in predictions:
            return cls(image, unit, predictions["right"])
        score, resampled = resampled_map(predictions["scores"], predictions["shown"], unit)
        return cls(image, unit, score=score, resampled=resampled)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return what `as_row` was made of."""
        image, unit = (_unpacked(row[name]) for name in ("image", "unit"))
        if row["right"] is not None:
            bits = np.frombuffer(b64decode(row["right"]), dtype=np.uint8)
            return cls(image, unit, np.unpackbits(bits, count=len(image)).astype(np.bool_))
        others = {name: (low, high) for name, (low, high) in row.get("intervals", {}).items()}
        drawn = np.array(row["resampled"])
        return cls(image, unit, score=row["score"], resampled=drawn, intervals=others)

    def as_row(self) -> Row:
        """Return all of it as what JSON can hold, a bit an image for single labels."""
        right = (
            None if self.right is None else b64encode(np.packbits(self.right).tobytes()).decode()
        )
        resampled = None if self.resampled is None else self.resampled.tolist()
        places = {"image": _packed(self.image), "unit": _packed(self.unit)}
        others = {"intervals": dict(self.intervals)} if self.intervals else {}
        return places | {"right": right, "score": self.score, "resampled": resampled} | others

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, mean average precision or mean cosine, in percent."""
        return self.score if self.right is None else float(100 * self.right.mean())

    @cached_property
    def has_units(self) -> bool:
        """Whether some images are not independent of each other."""
        return len(np.unique(self.unit)) < len(self.unit)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `accuracy` over images of the kind, in percent."""
        if self.right is None:
            found, scale = percentile_interval(self.draws), 1.0
        elif self.has_units:
            sums, sizes = unit_sums([self])
            found, scale = clustered_wilson(sums[0], sizes), 100.0
        else:
            found, scale = wilson(self.right.sum(), np.array(len(self.right))), 100.0
        return float(scale * found.low), float(scale * found.high)

    @property
    def draws(self) -> Floats:
        """The score of every resample, in percent; of all but single labels."""
        assert self.resampled is not None, "a single label is not resampled"
        return self.resampled

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether each image is answered right; of a single label."""
        assert self.right is not None, "only a single label is right or wrong"
        return self.right


LOW = 0.05
"""Of the images' cosines, this share is below `cosine_p5`."""


def _of_embedding(predictions: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return the intervals of an embedding's numbers beside the mean cosine, by their names."""
    unit = predictions["unit"]
    drawn = {
        "cosine_p5": resampled_quantile(predictions["cosine"], unit, LOW),
        "neighbours": resampled_mean(predictions["neighbours"], unit),
    }
    if "right" in predictions:
        drawn["knn"] = resampled_mean(100.0 * predictions["right"], unit)
    ends = {name: percentile_interval(values) for name, values in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def unit_sums(answers: Sequence[Answers]) -> tuple[Floats, Floats]:
    """Return right answers of each cell in each unit, [cells, units], and the units' images."""
    _, unit = np.unique(answers[0].unit, return_inverse=True)
    sizes = np.bincount(unit).astype(np.float64)
    return np.stack([np.bincount(unit, of.hits, minlength=len(sizes)) for of in answers]), sizes


def check_same_images(answers: Sequence[Answers]) -> None:
    """Raise ValueError unless all are of the same images and units."""
    first = answers[0]
    for other in answers[1:]:
        same = np.array_equal(first.image, other.image) and np.array_equal(first.unit, other.unit)
        if not same or (first.right is None) != (other.right is None):
            raise ValueError("cells were given that were not evaluated on the same images")


def _packed(values: NDArray[np.int64]) -> int | list[int]:
    """Return values as they are, or their number where they count from 0."""
    counts = np.array_equal(values, np.arange(len(values)))
    return len(values) if counts else values.tolist()


def _unpacked(packed: int | Sequence[int]) -> NDArray[np.int64]:
    return np.arange(packed) if isinstance(packed, int) else np.array(packed, dtype=np.int64)
