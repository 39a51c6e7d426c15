"""One cell of a study: what is trained, identified by everything that decides its outcome."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainables.recipe import Recipe

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What is part of a cell's id, and so of a path, holds no slash and does not begin with a dot."""

Name = Annotated[str, Field(pattern=NAME)]


class Cell(BaseModel):
    """A method at a keep rate on a host of some capacity, finetuned on a dataset from a seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Name
    method: Name
    capacity: Name
    keep_rate: Annotated[float, Field(gt=0, le=1)]
    """Share of the patch tokens kept at each reduction stage, cumulative over the stages."""
    reduction_loc: tuple[int, ...]
    """0-based indices of the blocks that reduce, ascending."""
    seed: Annotated[int, Field(ge=0)] = 0
    options: dict[str, Any] = {}
    """The method's own options, such as `{"equal_weight": true}`."""
    recipe: Recipe
    eval_keep_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Other keep rates that the trained weights are evaluated at; the training is the same."""
    prerequisite: Name | None = None
    """Id of the cell that is trained first, because its best weights teach this one."""
    imported: str | None = None
    """ENTITY/PROJECT/RUN of the W&B run that trained it elsewhere; None: it is trained here."""

    @field_validator("reduction_loc")
    @classmethod
    def _blocks_ascend(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if list(blocks) != sorted(set(blocks)) or (blocks and blocks[0] < 0):
            raise ValueError(f"is {list(blocks)}, but must be ascending block indices from 0")
        return blocks

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
        """Return `{dataset}-{method}-{capacity}-r{rate}-s{seed}-{hash8}`.

        The hash covers everything that changes the outcome and nothing that does not (paths,
        resources, worker counts), so that the same cell in two studies is the same cell. That of
        an imported cell covers its run, so that it is never the same as one that is trained here.
        """
        return f"{self._name}-s{self.seed}-{_hashed(self._outcome())}"

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
        return f"{self.dataset}-{self.method}-{self.capacity}-r{self.keep_rate:g}"

    def _outcome(self) -> dict[str, Any]:
        identity = self.model_dump(mode="json", exclude={"recipe", "eval_keep_rates"})
        for name in ("prerequisite", "imported"):  # Cells had ids before they could have these.
            if identity[name] is None:
                del identity[name]
        return identity | self.recipe.outcome()


def _hashed(outcome: dict[str, Any]) -> str:
    canonical = json.dumps(outcome, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
