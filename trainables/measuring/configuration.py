"""What a measurement of speed is about: cells that agree in it share the measurement."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

from reduction.methods import method_class
from trainables.cell.cell import OF_TUNING, Cell
from trainables.storage.files import digest

Precision = Literal["auto", "bf16", "fp16", "off"]

NO_MATTER = frozenset(
    {"dataset", "capacity", "seed", "recipe", "eval_keep_rates", "prerequisite", "imported"}
    | set(OF_TUNING)
)
"""Fields of a cell that no forward pass depends on, beside the host that they name."""


@dataclass(frozen=True)
class Configuration:
    """A reduced model, and how it is run."""

    cell: Cell
    """One of the cells that share it, at the keep rate to measure."""
    precision: Precision
    """As in a recipe, but that weights and images have the type, too."""
    compile: bool
    trained_as: str | None
    """Id of the cell whose weights and images decide how many tokens are kept; None: none does."""

    @classmethod
    def of(
        cls, cell: Cell, keep_rate: float | None, precision: Precision, *, compiled: bool
    ) -> Self:
        """Return what to measure of a cell, at another keep rate than its own unless None."""
        at_rate = cell if keep_rate is None else cell.at_rate(keep_rate)
        trained_as = cell.id if method_class(cell.method).pads else None
        return cls(at_rate, precision, compiled, trained_as)

    @property
    def name(self) -> str:
        """What is measured, in words."""
        cell = self.cell
        of_cell = f", {self.trained_as}" if self.trained_as else ""
        return f"{cell.method} at {cell.budget} on {cell.host}{of_cell}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that speed depends on, as plain JSON values."""
        return {
            "host": self.cell.host,
            "image_size": self.cell.recipe.image_size,
            **self.cell.model_dump(mode="json", exclude=set(NO_MATTER), exclude_none=True),
            "precision": self.precision,
            "compile": self.compile,
            "cell": self.trained_as,
        }

    @cached_property
    def key(self) -> str:
        """What identifies it."""
        return digest(json.dumps(self.identity, sort_keys=True).encode())[:16]
