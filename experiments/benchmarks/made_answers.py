"""Simulated studies whose true accuracies are known, as the analysis takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import integrate, stats

from analysis.answers import Answers
from analysis.intervals import resampled_map
from analysis.records import CellRecord

BASELINE = "deit"
RATE = 0.5
AT_ALL_RATES = 1.0


@dataclass(frozen=True)
class Cells:
    """Evaluated cells, with what they answered and what they are worth."""

    records: Sequence[CellRecord]
    answers: Mapping[str, Answers]
    """By cell id."""
    truth: Mapping[str, float]
    """Method -> its accuracy over all images and trainings, in percent."""


@dataclass(frozen=True, kw_only=True)
class SingleLabel:
    """Cells that are right where a sum of normal effects is above 0.

    The effects: what is hard for all cells, what is hard for a method, what a training brings to
    all images, and what it brings to each. The first two are shared by the images of a unit.
    """

    accuracy: Mapping[str, float]
    """Method -> its true accuracy, in (0, 1)."""
    images: int = 500
    seeds: int = 1
    units: int | None = None
    """Sources that images are divided among, unevenly; None where each image is its own."""
    hard: float = 1.0
    """Standard deviations of the effects."""
    of_method: float = 0.4
    training: float = 0.0
    of_image: float = 0.3

    def draw(self, random: np.random.Generator) -> Cells:
        """Draw a study."""
        unit = np.arange(self.images)
        if self.units is not None:
            weights = random.dirichlet(np.full(self.units, 3.0))
            unit = np.sort(random.choice(self.units, size=self.images, p=weights))
        hard = self._of_images(random, unit, self.hard)
        deviations = (self.hard, self.of_method, self.training, self.of_image)
        total = np.sqrt(np.square(deviations).sum())
        records, answers = [], {}
        for method, share in self.accuracy.items():
            base = hard + self._of_images(random, unit, self.of_method)
            base = base + stats.norm.ppf(share) * total
            for seed in range(self.seeds):
                luck = random.normal(random.normal(0, self.training), self.of_image, self.images)
                made = Answers(np.arange(self.images), unit, base + luck > 0)
                records.append(_record(method, seed, made))
                answers[records[-1].cell_id] = made
        return Cells(records, answers, {m: 100 * share for m, share in self.accuracy.items()})

    def _of_images(self, random: np.random.Generator, unit: Any, deviation: float) -> Any:
        if self.units is None:
            return random.normal(0, deviation, size=self.images)
        # Half of the variance is of the source.
        of_units, own = (random.normal(0, deviation * np.sqrt(0.5), size=n)
                         for n in (self.units, self.images))  # fmt: skip
        return of_units[unit] + own


@dataclass(frozen=True, kw_only=True)
class SeveralLabels:
    """Cells whose scores are normal, and higher by some strength where a class is shown."""

    strength: Mapping[str, float]
    """Method -> what a class that is shown adds to its score, in standard deviations."""
    images: int = 1000
    classes: int = 10
    shown: float = 0.1
    """Share of the images that show a class."""
    units: int | None = None
    """Sources of as many images each, which half of a score's variance belongs to."""

    def draw(self, random: np.random.Generator) -> Cells:
        """Draw a study."""
        place = np.arange(self.images)
        unit = place if self.units is None else place % self.units
        sources = unit.max() + 1
        shown = random.random((sources, self.classes))[unit] < self.shown
        common = random.normal(0, np.sqrt(0.5), size=(sources, self.classes))[unit]
        records, answers = [], {}
        for method, strength in self.strength.items():
            own = random.normal(0, np.sqrt(0.5), size=shown.shape)
            score, draws = resampled_map(common + own + strength * shown, shown, unit)
            made = Answers(place, unit, score=score, resampled=draws)
            records.append(_record(method, 0, made))
            answers[records[-1].cell_id] = made
        truth = {m: 100 * self._precision(strength) for m, strength in self.strength.items()}
        return Cells(records, answers, truth)

    def _precision(self, strength: float) -> float:
        """Return average precision over all images: mean precision at the score of a positive."""

        def found(score: float) -> float:
            positive = self.shown * stats.norm.sf(score - strength)
            precision = positive / (positive + (1 - self.shown) * stats.norm.sf(score))
            return float(stats.norm.pdf(score - strength) * precision)

        return float(integrate.quad(found, strength - 8, strength + 8)[0])


def _record(method: str, seed: int, answers: Answers) -> CellRecord:
    baseline = method == BASELINE
    return CellRecord(
        cell_id=f"{method}-{seed}", dataset="made", method=method, capacity="tiny", seed=seed,
        family="baseline" if baseline else "pruning", meets_every_rate=baseline, stages=(3, 6, 9),
        keep_rate=AT_ALL_RATES if baseline else RATE, state="done", series=method,
        metrics={"accuracy": answers.accuracy, "metric": "top1", "gmacs": 2.0 if baseline else 1.0},
    )  # fmt: skip
