"""One cell of a study: what is trained, identified by everything that decides its outcome."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from reduction.schedule import Amount, MethodOptions, make_schedule
from trainables.cell.tuning import Tuning, Values, with_values
from trainables.recipe import Recipe

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What is part of a cell's id, and so of a path, holds no slash and does not begin with a dot."""

Name = Annotated[str, Field(pattern=NAME)]
OWN_METHOD = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$"
"""`module:Class` of a method that is not the library's."""


NOT_ALWAYS_THERE = ("tokens", "r", "prerequisite", "imported")
"""Fields that cells have had since their ids were first given: None leaves the id as it was."""
OF_TUNING = ("tuning", "trial")
"""Fields that only cells of studies with a section `tuning` have, also in `cell.json`."""
TRIAL = "trial"
"""Stands before the hash in the id of a cell that is trained for a choice alone."""
BUDGETS = Amount._fields
"""Fields of a cell's budget, of which it has one."""


class Inflected(BaseModel):
    """ToMe's linear schedule: tokens that each block removes, around a mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: Annotated[float, Field(ge=0)]
    """Mean number of tokens that a block removes, at least 0."""
    inflect: Annotated[float, Field(ge=-1, le=1)]
    """From -1, falling from `2 r` to 0, over 0, constant, to 1, rising from 0 to `2 r`."""

    def __str__(self) -> str:
        return f"{self.r:g} inflect {self.inflect:g}"


Count = Annotated[int, Field(strict=True, ge=0)]


def _removed(value: Any) -> Any:
    """Take any of the spellings; say in one line what they are where it is none."""
    for spelling in (Count, tuple[Count, ...], Inflected):
        with suppress(ValidationError):
            return TypeAdapter(spelling).validate_python(value)
    raise ValueError(
        "must be a number of tokens, a list with one for each block, or "
        "{r: MEAN, inflect: FROM -1 TO 1}"
    )


Removed = Annotated[
    Count | tuple[Count, ...] | Inflected,
    BeforeValidator(_removed, json_schema_input_type=Count | list[Count] | Inflected),
]
"""Tokens that each reducing block removes: a number, one for each, or a linear schedule."""


class Cell(BaseModel):
    """A method at some budget on a host of some capacity, finetuned on a dataset from a seed.

    The budget is one of `keep_rate`, `tokens` and `r`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Name
    method: Annotated[str, Field(pattern=rf"{NAME}|{OWN_METHOD}")]
    capacity: Name
    keep_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the patch tokens kept at each reduction stage, cumulative over the stages."""
    tokens: tuple[Count, ...] | None = None
    """Patch tokens kept at each reduction stage."""
    r: Removed | None = None
    """Patch tokens removed at each reduction stage."""
    reduction_loc: tuple[int, ...]
    """0-based indices of the blocks that reduce, ascending."""
    seed: Annotated[int, Field(ge=0)] = 0
    options: MethodOptions = {}
    """The method's own options, such as `{"equal_weight": true}`."""
    recipe: Recipe
    eval_keep_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Other keep rates that the trained weights are evaluated at; the training is the same."""
    prerequisite: Name | None = None
    """Id of the cell that is trained first, because its best weights teach this one."""
    imported: str | None = None
    """ENTITY/PROJECT/RUN of the W&B run that trained it elsewhere; None: it is trained here."""
    tuning: Tuning | None = None
    """How values of its recipe are chosen before it trains; `recipe` is that before the choice."""
    trial: Literal["none", "asha", "teacher"] | None = None
    """What a cell is trained for that is no result: for a choice, under this scheduler, or as the
    teacher of such cells."""

    @model_serializer(mode="wrap")
    def _without_tuning(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `OF_TUNING` out where there is none."""
        found: dict[str, Any] = fields(self)
        return {name: x for name, x in found.items() if x is not None or name not in OF_TUNING}

    @field_validator("reduction_loc")
    @classmethod
    def _blocks_ascend(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if list(blocks) != sorted(set(blocks)) or (blocks and blocks[0] < 0):
            raise ValueError(f"is {list(blocks)}, but must be ascending block indices from 0")
        return blocks

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'none'} given, but must be one of keep_rate, tokens and r"
            )
        if self.keep_rate is None:
            self._check_without_rate()
            depth = max(self.reduction_loc, default=-1) + 1
            make_schedule(depth, **self.amount._asdict(), reduction_loc=self.reduction_loc)
        return self

    def _check_without_rate(self) -> None:
        """Refuse what is defined for keep rates alone."""
        if self.method == "dynamicvit":
            raise ValueError("dynamicvit learns to meet a keep rate, but none is given")
        if self.eval_keep_rates:
            raise ValueError(f"eval_keep_rates go with keep_rate, but {self.schedule} is given")

    @property
    def amount(self) -> Amount:
        """How much to reduce, as `reduction.reduce` takes it."""
        r = self.r
        if isinstance(r, tuple):
            return Amount(r=list(r))  # A tuple would be inflected.
        return Amount(
            self.keep_rate, self.tokens, (r.r, r.inflect) if isinstance(r, Inflected) else r
        )

    @property
    def budget(self) -> str:
        """The budget in words: `0.5`, `tokens=48,32,16` or `r=8`."""
        return f"{self.keep_rate:g}" if self.schedule is None else self.schedule

    @property
    def schedule(self) -> str | None:
        """The budget in words where it is no keep rate."""
        for name, value in (("tokens", self.tokens), ("r", self.r)):
            if value is not None:
                listed = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                return f"{name}={listed}"
        return None

    def at_rate(self, keep_rate: float) -> Self:
        """Return the cell at a keep rate, whatever its own budget."""
        return self.model_copy(update={"keep_rate": keep_rate, "tokens": None, "r": None})

    @property
    def host(self) -> str:
        """Name of the model this cell starts from."""
        return self.recipe.host.format(capacity=self.capacity)

    @property
    def teacher(self) -> str:
        """Who teaches this cell, if its recipe distils: a cell's id or a model's name."""
        return self.prerequisite or self.recipe.teacher.format(capacity=self.capacity)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed, and so with an id of its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("id", None)  # Remembered of the original.
        return copied

    @cached_property
    def id(self) -> str:
        """Return `{dataset}-{method}-{capacity}-r{rate}-s{seed}-{hash8}`, `:` in a method as `.`.

        Instead of `r{rate}` there is `tokens48.32.16` or `minus8` where these are the budget.

        The hash covers everything that changes the outcome and nothing that does not (paths,
        resources, worker counts), so that the same cell in two studies is the same cell. That of
        an imported cell covers its run, so that it is never the same as one that is trained here.
        That of a tuned cell covers how values are searched, not which are found. In the id of a
        trial, `trial-` stands before the hash.
        """
        trial = f"{TRIAL}-" if self.trial else ""
        return f"{self._name}-s{self.seed}-{trial}{_hashed(self._outcome())}"

    @cached_property
    def series(self) -> str:
        """Return `{dataset}-{method}-{capacity}-r{rate}-{hash8}`.

        Cells that differ in nothing but the seed have it in common: imported ones only with others
        from the same project.
        """
        outcome = self._outcome() | {
            "seed": None,
            "prerequisite": self.prerequisite is not None,
            "imported": self.imported and self.imported.rpartition("/")[0],
        }
        return f"{self._name}-{_hashed(outcome)}"

    @property
    def _name(self) -> str:
        method = self.method.replace(":", ".")
        return f"{self.dataset}-{method}-{self.capacity}-{self._budget_in_id}"

    @property
    def _budget_in_id(self) -> str:
        if self.schedule is None:
            return f"r{self.keep_rate:g}"
        name, _, value = self.schedule.partition("=")
        word = "minus" if name == "r" else name
        return word + value.replace(",", ".").replace(" ", "-")

    def _outcome(self) -> dict[str, object]:
        identity = self.model_dump(mode="json", exclude={"recipe", "eval_keep_rates"})
        for name in ("keep_rate", *NOT_ALWAYS_THERE):
            if identity[name] is None:
                del identity[name]
        return identity | self.recipe.outcome()

    def with_recipe(self, recipe: Recipe) -> Self:
        """Return the cell with another recipe, under the id that it has with its own."""
        changed = self.model_copy(update={"recipe": recipe})
        changed.__dict__["id"] = self.id  # Otherwise it would follow from the changed recipe.
        return changed

    def tuned(self, chosen: Values) -> Self:
        """Return the cell with the values that were chosen for its recipe, under its own id."""
        return self.with_recipe(with_values(self.recipe, chosen)) if chosen else self


def is_trial(cell_id: str) -> bool:
    """Tell whether an id is that of a cell that is trained for a choice alone."""
    return cell_id.split("-")[-2:-1] == [TRIAL]


def _hashed(outcome: dict[str, object]) -> str:
    canonical = json.dumps(outcome, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
