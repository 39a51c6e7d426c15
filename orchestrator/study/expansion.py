"""The cells of a study: the product of the axes of each of its grids, and their teachers."""

import itertools
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from orchestrator.errors import UserError, not_one_of, one_line
from orchestrator.study.names import OVERRIDDEN_BY
from orchestrator.study.shipped_recipes import shipped_recipes
from orchestrator.study.study import Grid, Study
from orchestrator.study.study_file import Fields
from reduction import METHODS
from reduction.methods import method_class
from trainables.cell.cell import BUDGETS, Cell
from trainables.cell.tuning import Tuning
from trainables.data import DATASETS, is_dataset
from trainables.recipe import Recipe

AXES = ("dataset", "capacity", "method", *BUDGETS, "seed")
BASELINE_METHOD = "deit"


def expand(study: Study) -> list[Cell]:
    """Return the study's cells in the order of its grids, each once, then `added_teachers`.

    Raises:
        UserError: A name, a value or a recipe in the study is not allowed.
    """
    cells, teachers = _cells_and_teachers(study)
    for teacher in teachers.values():
        cells.setdefault(teacher.id, teacher)
    for cell in cells.values():
        _check_shares(study, cell)
    return list(cells.values())


def added_teachers(study: Study) -> list[Cell]:
    """Return the cells that others need as teachers and no grid has.

    Raises:
        UserError: A name, a value or a recipe in the study is not allowed.
    """
    cells, teachers = _cells_and_teachers(study)
    return [teacher for cell_id, teacher in teachers.items() if cell_id not in cells]


def by_recipe(study: Study) -> dict[str, list[Cell]]:
    """Return all cells of the study by the name of their recipe, each cell once.

    Raises:
        UserError: A name, a value or a recipe in the study is not allowed.
    """
    found: dict[str, dict[str, Cell]] = {}
    for grid in study.grids:
        cells, teachers = _cells_and_teachers(study.model_copy(update={"grids": [grid]}))
        found.setdefault(grid.recipe or study.defaults.recipe, {}).update(cells | teachers)
    return {name: list(cells.values()) for name, cells in found.items()}


def _cells_and_teachers(study: Study) -> tuple[dict[str, Cell], dict[str, Cell]]:
    cells: dict[str, Cell] = {}
    teachers: dict[str, Cell] = {}
    for number, grid in enumerate(study.grids):
        for cell, teacher in _expand_grid(study, grid, f"{study.name}: grids.{number}"):
            cells[cell.id] = _with_rates(cell, cells.get(cell.id, cell).eval_keep_rates)
            if teacher is not None:
                teachers.setdefault(teacher.id, teacher)
    return cells, teachers


def _with_rates(cell: Cell, rates: Sequence[float]) -> Cell:
    """Return the cell with further keep rates to evaluate it at, each once and not its own."""
    if cell.method == BASELINE_METHOD:
        return cell.model_copy(update={"eval_keep_rates": ()})
    others = {*cell.eval_keep_rates, *rates} - {cell.keep_rate}
    return cell.model_copy(update={"eval_keep_rates": tuple(sorted(others))})


def _check_shares(study: Study, cell: Cell) -> None:
    workers, batch = study.reserved(cell.capacity).workers, cell.recipe.batch_size
    if batch < 2 * workers - 1:  # They share a batch out in pairs of images, as mixup needs it.
        raise UserError(
            f"cell {cell.id}: batch_size is {batch}, but must be at least {2 * workers - 1} for "
            f"resources.{cell.capacity}.workers ({workers})"
        )


def _expand_grid(study: Study, grid: Grid, origin: str) -> Iterator[tuple[Cell, Cell | None]]:
    """Yield the cells of a grid, each with the cell that is its teacher, if one is."""
    given = {name: getattr(grid, name) for name in grid.model_fields_set}
    merged = study.defaults.model_copy(update=given)
    _check_names(merged, origin)
    budget = _budget(study.defaults, grid, origin)
    only_baseline = {"keep_rate": [1.0]} if merged.method == [BASELINE_METHOD] else {}
    budget = "keep_rate" if only_baseline else budget
    merged = merged.model_copy(update={"seed": merged.seed or [0]} | only_baseline)
    axes = [axis for axis in AXES if axis not in BUDGETS or axis == budget]
    for key in (*axes, "reduction_loc", "recipe"):
        if not getattr(merged, key):
            raise UserError(f"{origin}.{key} is missing: set it there or in the study's defaults")
    for values in itertools.product(*(getattr(merged, axis) for axis in axes)):
        yield _cell_and_teacher(study, dict(zip(axes, values, strict=True)), merged, origin)


def _budget(defaults: Grid, grid: Grid, origin: str) -> str:
    """Return which of the budgets a grid has: its own, else that of the defaults."""
    for place, where in ((grid, origin), (defaults, "defaults")):
        given = [name for name in BUDGETS if getattr(place, name)]
        if len(given) > 1:
            raise UserError(
                f"{where} has {' and '.join(given)}, but must have one of keep_rate, tokens and r"
            )
        if given:
            return given[0]
    return "keep_rate"


def _check_names(grid: Grid, origin: str) -> None:
    for method in grid.method:
        if ":" in method:
            _check_own_method(method, f"{origin}.method")
        elif method not in METHODS:
            raise not_one_of(f"{origin}.method", method, METHODS)
    for dataset in grid.dataset:
        if not is_dataset(dataset):
            raise not_one_of(f"{origin}.dataset", dataset, DATASETS)


def _check_own_method(place: str, origin: str) -> None:
    """Import a method of the user's own, `module:Class`."""
    try:
        method_class(place)
    except (TypeError, ValueError) as error:
        raise UserError(f"{origin}: {error}") from error


def _cell_and_teacher(
    study: Study, identity: Fields, grid: Grid, origin: str
) -> tuple[Cell, Cell | None]:
    recipe, tuning = _recipe(study, grid.recipe, identity), study.tuning.get(grid.recipe)
    if not recipe.taught_by_baseline:
        return _cell(identity, grid, recipe, None, tuning, origin), None
    teacher = _baseline(study, identity, grid, origin)
    _check_start(recipe, teacher, origin)
    return _cell(identity, grid, recipe, teacher, tuning, origin), teacher


def _cell(
    identity: Fields,
    grid: Grid,
    recipe: Recipe,
    teacher: Cell | None,
    tuning: Tuning | None,
    origin: str,
) -> Cell:
    if identity["method"] == BASELINE_METHOD:
        others = {name: value for name, value in identity.items() if name not in BUDGETS}
        identity = others | {"keep_rate": 1.0}  # It reduces nothing at any rate: one cell.
    try:
        return Cell.model_validate(
            identity
            | {
                "reduction_loc": grid.reduction_loc,
                "options": grid.options,
                "eval_keep_rates": grid.eval_keep_rates,
                "recipe": recipe,
                "prerequisite": teacher.id if teacher else None,
                "tuning": tuning,
            }
        )
    except ValidationError as error:
        raise UserError(one_line(error, origin)) from error


def _baseline(study: Study, identity: Fields, grid: Grid, origin: str) -> Cell:
    """Return the unreduced cell of the same dataset, capacity and seed, without a teacher."""
    identity = identity | {"method": BASELINE_METHOD}
    recipe = _recipe(study, grid.recipe, identity).model_copy(update={"distillation": "none"})
    plain = grid.model_copy(update={"options": {}, "eval_keep_rates": []})
    return _cell(identity, plain, recipe, None, study.tuning.get(grid.recipe), origin)


def _check_start(recipe: Recipe, teacher: Cell, origin: str) -> None:
    """Refuse a teacher with an override that makes it another network than its student's host."""
    for field in ("host", "image_size"):
        ours, theirs = getattr(recipe, field), getattr(teacher.recipe, field)
        if ours != theirs:
            raise UserError(
                f"{origin}: {field} of the teacher {teacher.id} is {theirs!r}, "
                f"but must be that of its student, {ours!r}"
            )


def _recipe(study: Study, name: str, identity: Fields) -> Recipe:
    if name not in study.recipes:
        raise not_one_of("recipe", name, {*study.recipes, *shipped_recipes()})
    values = dict(study.recipes[name])
    overrides = [(axis, values.pop(axis, {})) for axis in OVERRIDDEN_BY]
    for axis, by_value in overrides:
        override = by_value.get(identity[axis], {}) if isinstance(by_value, dict) else by_value
        if not isinstance(override, dict):
            raise UserError(f"recipes.{name}.{axis} must hold recipe fields by {axis}")
        values |= override
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(one_line(error, f"{study.name}: recipes.{name}")) from error
