"""Searches of a study's section `tuning`: the trials among which the values of cells are chosen.

A cell whose recipe is tuned waits for the trials of its search, as a student waits for its
teacher. Trials of students are taught by a cell of their own, which is tuned, too.
"""

import json
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from orchestrator.errors import UserError, one_line
from orchestrator.store.searches import Candidate, Search
from orchestrator.study.expansion import BASELINE_METHOD, by_recipe
from orchestrator.study.study import Study
from trainables.cell.cell import Cell
from trainables.cell.tuning import Tuning, Values, wrong_values


class Searches:
    """All searches of a study.

    Args:
        searches: Them.
        trials: Their trials, and the teachers of these: all that is trained for a choice alone.
    """

    def __init__(self, searches: Sequence[Search] = (), trials: Sequence[Cell] = ()) -> None:
        self.all = searches
        self.trials = trials
        self._by_cell = {cell: search for search in searches for cell in search.cells}

    def of(self, cell_id: str) -> Search | None:
        """Return the search that a cell waits for, None if its recipe is not tuned."""
        return self._by_cell.get(cell_id)

    def trials_of(self, cell_id: str) -> tuple[str, ...]:
        """Return the ids of the trials that decide the recipe of a cell."""
        search = self.of(cell_id)
        return search.trials if search else ()

    def prerequisites(self, cell: Cell) -> list[str]:
        """Return the ids of all cells that have to be trained before this one can be."""
        return [*self.trials_of(cell.id), *filter(None, [cell.prerequisite])]


def searches_of(study: Study) -> Searches:
    """Return the searches of a study.

    Raises:
        UserError: The section does not fit the cells of its recipe.
    """
    cells_of = by_recipe(study) if study.tuning else {}
    searches: list[Search] = []
    apart: dict[str, Cell] = {}
    for name, tuning in study.tuning.items():
        cells = [cell for cell in cells_of.get(name, ()) if cell.tuning]
        _check(f"{study.name}: tuning.{name}", tuning, cells)
        teachers = _teachers_of_trials(cells)
        for group in _groups(tuning, [*cells, *teachers.values()]):
            search, trials = _search(name, tuning, group, teachers)
            searches.append(search)
            apart |= trials
        apart |= {teacher.id: teacher for teacher in teachers.values()}
    return Searches(searches, list(apart.values()))


def _search(
    name: str, tuning: Tuning, cells: Sequence[Cell], teachers: Mapping[str, Cell]
) -> tuple[Search, dict[str, Cell]]:
    """Return the search that cells share, and its trials by id."""
    candidates, trials = [], dict[str, Cell]()
    for point in tuning.points():
        tried = [_trial(tuning, point, cell, teachers) for cell in cells]
        ids = tuple(dict.fromkeys(trial.id for trial in tried))
        candidates.append(Candidate(values=point, trials=ids))
        trials |= {trial.id: trial for trial in tried}
    search = Search(
        recipe=name,
        place={axis: _shown(cells[0], axis) for axis in tuning.per},
        scheduler=tuning.scheduler,
        candidates=tuple(candidates),
        cells=tuple(cell.id for cell in cells),
    )
    return search, trials


def _groups(tuning: Tuning, cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells that share a choice, for each choice."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(_key(tuning, cell)), []).append(cell)
    return list(groups.values())


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
