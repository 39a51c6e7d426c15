"""Searches of a study's section `tuning`: the trials among which the values of cells are chosen.

A cell whose recipe is tuned waits for the trials of its search, as a student waits for its
teacher. Trials of students are taught by a cell of their own, which is tuned, too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from orchestrator.errors import UserError, one_line
from orchestrator.study.study import BASELINE_METHOD, Study, by_recipe
from trainables.cell.cell import Cell
from trainables.cell.tuning import Tuning, Values, wrong_values


@dataclass(frozen=True)
class Candidate:
    """Values that may be chosen, and the trials that tell how good they are."""

    values: Values
    trials: Sequence[Cell]
    """One for each of what shares the choice."""


@dataclass(frozen=True)
class Search:
    """One choice: what it is for, what there is to choose from, and who waits for it."""

    recipe: str
    """Name of the recipe."""
    tuning: Tuning
    place: Mapping[str, str]
    """What the choice is for: `dataset`, `capacity` and `method`, as far as `per` names them."""
    candidates: Sequence[Candidate]
    cells: Sequence[Cell]
    """Cells that wait for it: those of the study, and a teacher of trials."""

    @property
    def name(self) -> str:
        """What the choice is for, in words."""
        return ", ".join([self.recipe, *self.place.values()])

    @cached_property
    def trials(self) -> tuple[Cell, ...]:
        """All its trials, each once."""
        found = {trial.id: trial for each in self.candidates for trial in each.trials}
        return tuple(found.values())


class Searches:
    """All searches of a study.

    Args:
        searches: Them.
    """

    def __init__(self, searches: Sequence[Search] = ()) -> None:
        self.all = searches
        self._by_cell = {cell.id: search for search in searches for cell in search.cells}

    def of(self, cell_id: str) -> Search | None:
        """Return the search that a cell waits for, None if its recipe is not tuned."""
        return self._by_cell.get(cell_id)

    @cached_property
    def trials(self) -> list[Cell]:
        """Trials and their teachers, each once: all cells that are trained for a choice alone."""
        teachers = {c.id: c for search in self.all for c in search.cells if c.trial}
        return list(({t.id: t for search in self.all for t in search.trials} | teachers).values())


def searches_of(study: Study) -> Searches:
    """Return the searches of a study.

    Raises:
        UserError: The section does not fit the cells of its recipe.
    """
    if not study.tuning:
        return Searches()
    cells_of = by_recipe(study)
    found: list[Search] = []
    for name, tuning in study.tuning.items():
        cells = [cell for cell in cells_of.get(name, ()) if cell.tuning]
        _check(f"{study.name}: tuning.{name}", tuning, cells)
        teachers = _teachers_of_trials(cells)
        found += _searches(name, tuning, [*cells, *teachers.values()], teachers)
    return Searches(found)


def _searches(
    name: str, tuning: Tuning, cells: Sequence[Cell], teachers: Mapping[str, Cell]
) -> list[Search]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(_key(tuning, cell)), []).append(cell)
    return [
        Search(
            name,
            tuning,
            {axis: _shown(cell, axis) for axis in tuning.per for cell in group[:1]},
            [
                Candidate(point, _trials(tuning, point, group, teachers))
                for point in tuning.points()
            ],
            group,
        )
        for group in groups.values()
    ]


def _key(tuning: Tuning, cell: Cell) -> list[object]:
    """Return what cells have in common that share a choice."""
    key: list[object] = []
    for axis in tuning.per:
        key.append(getattr(cell, axis))
        if axis == "method":
            key += [cell.options, cell.reduction_loc, cell.recipe.distillation]
    return key


def _shown(cell: Cell, axis: str) -> str:
    """Return what the choice is for on one axis; a method with its options."""
    value: str = getattr(cell, axis)
    options = [f"{name}={x}" for name, x in cell.options.items()] if axis == "method" else []
    return " ".join([value, *options])


def _trials(
    tuning: Tuning, point: Values, cells: Iterable[Cell], teachers: Mapping[str, Cell]
) -> tuple[Cell, ...]:
    found = (_trial(tuning, point, cell, teachers) for cell in cells)
    return tuple({trial.id: trial for trial in found}.values())


def _trial(tuning: Tuning, point: Values, cell: Cell, teachers: Mapping[str, Cell]) -> Cell:
    """Return the trial of some values that a cell's choice depends on."""
    rate = 1.0 if cell.method == BASELINE_METHOD else tuning.at.keep_rate
    teacher = cell.prerequisite and teachers[cell.prerequisite].id
    return cell.at_rate(rate).model_copy(
        update={
            "seed": tuning.at.seed,
            "eval_keep_rates": (),
            "recipe": tuning.trial_recipe(cell.recipe, point),
            "prerequisite": teacher,
            "tuning": None,
            "trial": tuning.scheduler,
        }
    )


def _teachers_of_trials(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Return who teaches the trials of students, by the id of the student's own teacher."""
    by_id = {cell.id: cell for cell in cells}
    found: dict[str, Cell] = {}
    for cell in cells:
        if cell.prerequisite and (tuning := cell.tuning):
            update = {"seed": tuning.at.seed, "trial": "teacher"}
            found[cell.prerequisite] = by_id[cell.prerequisite].model_copy(update=update)
    return found


def _check(place: str, tuning: Tuning, cells: Sequence[Cell]) -> None:
    """Refuse a section that does not fit the cells that it is about."""
    for cell in cells:
        if cell.seed == tuning.at.seed:
            raise UserError(
                f"{place}.at.seed is {cell.seed}, but must be one that no cell has: {cell.id} has"
            )
        if cell.keep_rate is None:
            raise UserError(
                f"{place}: {cell.id} has {cell.schedule}, but values are tried at a keep rate: "
                "give cells with tokens or r another recipe"
            )
        if cell.prerequisite and "method" not in tuning.per:
            raise UserError(
                f"{place}.per is {tuning.per}, but must have method: {cell.id} has a teacher of "
                "the same recipe"
            )
    for recipe in {cell.recipe: None for cell in cells}:
        if isinstance(wrong := wrong_values(tuning, recipe), ValidationError):
            raise UserError(one_line(wrong, place))
        if wrong:
            raise UserError(f"{place}: {wrong}")
