"""The JSON records in a cell's folder, and those of calibrations.

Their keys are public and explained in `docs/tables.md`. Records of earlier versions and of imported
cells have fewer of them.
"""

from typing import TypedDict

from trainables.cell.tuning import Values


class BestRecord(TypedDict, total=False):
    """`best/meta.json`: which weights are the best."""

    accuracy: float
    """Percent."""
    metric: str
    epoch: int
    source: str
    """`model` or `ema`."""
    loss: float
    """Mean over images; of trials of a tuning alone."""


class TunedValues(TypedDict, total=False):
    """What records of tuned cells have more than others."""

    tuned: Values
    """Values that were chosen for the recipe: field -> value."""


class Attempt(TunedValues):
    """An attempt at training that ended on a number that is not finite."""

    attempt: int
    """Counted from 1."""
    gentler: dict[str, float]
    """What its fallback recipe changed: field -> value."""
    first_step: int
    """The optimiser step at which it began."""
    step: int
    """Optimiser steps before the one at which it ended."""
    found: dict[str, float | str]
    """Terms of the loss and norms by name; what JSON has no number for is text."""


class AttemptsRecord(TypedDict):
    """`attempts.json`."""

    attempts: list[Attempt]


class Rung(TypedDict):
    """A decision of successive halving about a trial."""

    epoch: int
    """Epochs after which it was made."""
    accuracy: float
    """Of that epoch, percent."""
    stops: bool
    time: float
    """Seconds since the epoch."""


class RungsRecord(TypedDict):
    """`rungs.json`."""

    rungs: list[Rung]


class TrialValues(TypedDict, total=False):
    """What results of trials have more than others."""

    loss: float | None
    """Of the best epoch's weights, on the images that chose the epoch."""
    stopped: bool
    """Whether successive halving has stopped it before its last epoch; of halved trials alone."""


class TrainingResult(TunedValues, TrialValues, total=False):
    """`result.json`: the outcome of a training."""

    metric: str
    accuracy: float | None
    """Of the best epoch, in percent."""
    epoch: int | None
    source: str | None
    last_accuracy: float | None
    select_on: str
    epochs: int
    total_steps: int
    train_images: int
    train_seconds: float
    data_wait: float | None
    """Share of the training time in which the device waited for images, in [0, 1]."""
    attempts: list[Attempt]
    gentler: dict[str, float]
    """What the fallback recipe changed, {} where none was needed."""
    macs: float
    """Multiply-accumulates of the training."""


class Shortage(TypedDict):
    """What was too little memory for a cell."""

    cpu: float
    gpu: float
    workers: int
    error: str


class MemoryRecord(TypedDict):
    """`memory.json`."""

    shortages: list[Shortage]


class ImportedRun(TypedDict):
    """`import.json`: the W&B run that a cell is from."""

    run: str
    """ENTITY/PROJECT/ID."""
    name: str
    metric: str
    max_accuracy: float
    """Percent."""
    checkpoint: str | None
    """Where its weights were found."""
    missing: str | None
    """Why it has no weights, None where it has."""


class TrainingCost(TypedDict):
    """What a calibration measures of a training."""

    peak_bytes: int
    """Peak memory: of the GPU, or of the process if it trains on CPUs."""
    device_bytes: int | None
    """Memory of the whole GPU; None on CPUs."""
    seconds_an_image: float
    """Seconds of training alone, without reading images."""
    macs_an_image: float
    """Multiply-accumulates; see `trainables.models.macs`."""


class CalibrationRecord(TrainingCost):
    """A file in the storage's `calibration` folder."""

    kind: dict[str, object]
    """What cells that take about the same memory have in common."""
    keep_rate: float
    """The highest keep rate that was measured."""


class Metrics(TypedDict, total=False):
    """What an evaluation measures."""

    metric: str
    accuracy: float
    """Percent."""
    top1: float
    top5: float
    map: float
    classes_without_positives: int
    cosine: float
    """Mean over images of 100 x the cosine of the pooled feature to that of the host without
    reduction; so are the next three in percent."""
    cosine_p5: float
    """Its 5th percentile over images."""
    neighbours: float
    """Share of an image's nearest other images that are those of the host without reduction."""
    knn: float
    """Images whose nearest other images have their label, by majority; where there are labels."""
    loss: float
    images: int
    tokens: dict[str, float]
    """Mean number of tokens after each block that reduces them, by the block's index."""
    capped: dict[str, float]
    """Of embeddings: number of tokens asked for after a block that cannot reduce to as few."""
    keep_rate: float
    """Where the budget is none: the one that leaves as many tokens after the last stage."""
    gmacs: float
    gflops: float
    parameters: int
    compiled: bool
    select_on: str
    family: str


class EvaluationRecord(TypedDict):
    """`eval.json`."""

    metrics: Metrics
    artifacts: dict[str, str]
    """SHA-256 of each file of the evaluation, by name."""
