"""What a study says about searching values of a recipe, and the recipes that follow from it."""

import itertools
import math
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainables.recipe import NO_EFFECT_ON_OUTCOME, Recipe

Values = Mapping[str, Any]
"""Field of a recipe -> its value, as plain JSON values."""
Axis = Literal["dataset", "capacity", "method"]

NOT_SEARCHED = frozenset(
    {"host", "pretrained", "image_size", "crop_ratio", "cache", "precision"}
    | {"epochs", "select_on", "distillation", "teacher"}
)
"""Fields that decide what the network is, who teaches it, how it is evaluated or for how long it
trains: cells that differ in these are compared, not chosen among."""
OF_LENGTH = ("warmup_epochs", "backbone_freeze_epochs")
"""Numbers of epochs that shrink with a trial's."""
DIGITS = 3
"""Significant digits of drawn values."""


class TuningModel(BaseModel):
    """Unknown keys and silent conversions are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Range(TuningModel):
    """Values from which some are drawn, evenly in their logarithm."""

    low: Annotated[float, Field(gt=0)]
    """The smallest, above 0."""
    high: Annotated[float, Field(gt=0)]
    """The largest, above `low`."""

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"high is {self.high:g}, but must be above low ({self.low:g})")
        return self


class TriedAt(TuningModel):
    """Where values are tried."""

    keep_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Keep rate of the trials, in (0, 1]; those of `deit` have 1."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1000
    """Seed of the trials, and of what is drawn; no reported cell may have it."""


class Tuning(TuningModel):
    """How values of a recipe are searched before its cells train."""

    values: Annotated[dict[str, list[Any] | Range], Field(min_length=1)]
    """Values to try by field of the recipe: lists, all combinations of which are tried, or ranges
    `{low: 1e-5, high: 1e-2}`."""
    samples: Annotated[int, Field(ge=1)] | None = None
    """How many combinations are drawn where there are ranges: of a range evenly in the logarithm,
    of a list any of its values."""
    per: list[Axis] = ["dataset", "capacity", "method"]
    """What has a choice of its own; options, blocks and having a teacher count as part of the
    method. Without one of these, the choice is the best mean over it."""
    at: TriedAt = TriedAt()
    """Keep rate and seed of the trials."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs of a trial, at most the recipe's, its default; warm-up and frozen epochs are as many
    fewer."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha`: Ray Tune's asynchronous successive halving stops trials early, after 1, 4, 16, ...
    epochs, that are not in the best quarter of those that came as far. `none`: all train to the
    end."""

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        for name, given in self.values.items():
            if name not in _searchable():
                raise ValueError(
                    f"values has {name!r}, but must have fields of a recipe that decide how it "
                    f"trains: {', '.join(_searchable())}"
                )
            if given == []:
                raise ValueError(f"values.{name} is [], but must have at least one value")
        ranges = [name for name, given in self.values.items() if isinstance(given, Range)]
        if bool(ranges) != (self.samples is not None):
            given_as = f"{', '.join(ranges)} as ranges" if ranges else "no range"
            raise ValueError(f"samples is {self.samples}, but values has {given_as}")
        if len(set(self.per)) < len(self.per):
            raise ValueError(f"per is {self.per}, but must name each once at most")
        return self

    def points(self) -> list[Values]:
        """Return the combinations to try, each once, in an order that never changes."""
        if self.samples is None:
            lists = [given for given in self.values.values() if isinstance(given, list)]
            points = [
                dict(zip(self.values, each, strict=True)) for each in itertools.product(*lists)
            ]
        else:
            draw = random.Random(self.at.seed)
            points = [
                {name: _drawn(given, draw) for name, given in self.values.items()}
                for _ in range(self.samples)
            ]
        return [point for number, point in enumerate(points) if point not in points[:number]]

    def trial_recipe(self, recipe: Recipe, point: Values) -> Recipe:
        """Return the recipe of a trial of some values.

        Raises:
            ValidationError: A recipe cannot have these values.
        """
        tried = with_values(recipe, point)
        epochs = self.epochs or recipe.epochs
        shrunk = {name: round(getattr(tried, name) * epochs / recipe.epochs) for name in OF_LENGTH}
        return with_values(tried, {**shrunk, "epochs": epochs, "select_on": "holdout"})


def with_values(recipe: Recipe, values: Values) -> Recipe:
    """Return a recipe with some values changed.

    Raises:
        ValidationError: A recipe cannot have these values.
    """
    return Recipe.model_validate({**recipe.model_dump(), **values})


def wrong_values(tuning: Tuning, recipe: Recipe) -> str | ValidationError | None:
    """Return why a recipe cannot be tuned so, None if it can."""
    if not recipe.epochs:
        return "its recipe has 0 epochs: nothing is trained that values could be chosen for"
    if (tuning.epochs or 0) > recipe.epochs:
        return f"epochs is {tuning.epochs}, but must be at most the recipe's ({recipe.epochs})"
    try:
        for point in tuning.points():
            tuning.trial_recipe(recipe, point)
    except ValidationError as error:
        return error
    return None


def _searchable() -> list[str]:
    fields = Recipe.model_fields.items()
    return [
        name
        for name, field in fields
        if name not in NOT_SEARCHED and field.json_schema_extra != NO_EFFECT_ON_OUTCOME
    ]


def _drawn(given: list[Any] | Range, draw: random.Random) -> Any:
    if isinstance(given, list):
        return given[int(draw.random() * len(given))]
    low, high = math.log(given.low), math.log(given.high)
    return float(f"{math.exp(low + (high - low) * draw.random()):.{DIGITS}g}")
