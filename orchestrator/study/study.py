"""Study files: YAML, validated by a schema, expanded into cells.

A study is a list of grids, each the product of its axes; see `docs/study-files.md`.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from orchestrator.errors import UserError, not_one_of, one_line
from orchestrator.study.names import (
    OVERRIDDEN_BY,
    study_folder,
    unused_names,
    wrong_overrides,
)
from orchestrator.study.shipped_recipes import (
    give_base,
    shipped_recipes,
    with_shipped_recipes,
)
from orchestrator.study.study_file import Fields, apply_setting, find_study_file, read_study_file
from reduction import METHODS
from reduction.methods import method_class
from trainables.cell.cell import BUDGETS, Cell, Removed
from trainables.cell.tuning import Tuning
from trainables.data import DATASETS, is_dataset
from trainables.measuring.settings import MeasureSettings
from trainables.recipe import Recipe

RECORDED = {"cells", "versions", "git_commit"}
"""What the store's record of a study, which may be given as the study, has beside it."""
AXES = ("dataset", "capacity", "method", *BUDGETS, "seed")
BASELINE_METHOD = "deit"


class StrictModel(BaseModel):
    """Unknown keys and silent conversions are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


Rate = Annotated[float, Field(gt=0, le=1)]
Block = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""NumPy, torch and the tables' int64 take no larger one."""


class Grid(StrictModel):
    """The product of its axes; what it leaves out comes from the study's defaults."""

    dataset: list[str] = []
    """Names of datasets; at least one."""
    capacity: list[str] = []
    """Values for `{capacity}` in the recipe's `host`; at least one."""
    method: list[str] = []
    """Names of methods, or `package.module:Class` of your own; at least one."""
    keep_rate: list[Rate] = []
    """Cumulative keep rates in (0, 1], one per cell; at least one, except where `deit` is the only
    method, which makes one cell at rate 1."""
    tokens: list[list[Annotated[int, Field(ge=1)]]] = []
    """Instead of `keep_rate`: lists of patch tokens kept, a number for each block that reduces, not
    rising; one list per cell."""
    r: list[Removed] = []
    """Instead of `keep_rate`: patch tokens removed in each block that reduces, ToMe's r. A number
    is the same for all, a list has one for each block, and `{r: 8, inflect: -1}` falls linearly
    from 16 to 0; one per cell."""
    seed: list[Seed] = []
    """Integers from 0 to 2^63 - 1; empty means `[0]`."""
    eval_keep_rates: list[Rate] = []
    """Further keep rates at which the trained weights are evaluated, as separate rows of the
    results; with `keep_rate` only. Not for `sit`, `patchmerger` and `sinkhorn`, whose parameters
    depend on the rate; `deit` ignores it. They do not change a cell's id: added later, they are
    evaluated and nothing is trained again."""
    reduction_loc: list[Block] = []
    """Blocks that reduce tokens, counted from 0, ascending; at least one."""
    options: Fields = {}
    """Options of the methods, such as `{equal_weight: true}`; every method of the grid must have
    them."""
    recipe: str = ""
    """Name of a recipe in `recipes`, or of a shipped recipe; required."""


AUTO: Literal["auto"] = "auto"
Amount = float | Literal["auto"]


class Resources(StrictModel):
    """What a trial of one capacity asks for; `auto` leaves it to a calibration."""

    cpu: Amount = 1.0
    """CPU cores of each worker, above 0; rounded down, and at least 1, they are the number of
    torch's threads. Or `auto`."""
    gpu: Amount = 1.0
    """Share of a GPU for each worker, 0 to 1, with several workers 0 or 1; ignored where the
    cluster has no GPU. Or `auto`."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that train a cell together, one per GPU, at least 1; at most one per 2 images of
    `batch_size`."""

    @field_validator("cpu", "gpu", mode="plain", json_schema_input_type=Amount)
    @classmethod
    def _is_an_amount(cls, value: Any, info: ValidationInfo) -> Amount:
        if value == AUTO:
            return AUTO
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if info.field_name == "gpu" and not (number and 0 <= value <= 1):
            raise ValueError("must be a number from 0 to 1, or auto")
        if info.field_name == "cpu" and not (number and value > 0):
            raise ValueError("must be a number above 0, or auto")
        return float(value)

    @model_validator(mode="after")
    def _workers_have_whole_gpus(self) -> Self:
        if self.workers > 1 and self.gpu not in (0, 1):
            raise ValueError(f"gpu is {self.gpu}, but must be 0 or 1 with several workers")
        if self.workers > 1 and self.cpu == AUTO:
            raise ValueError("cpu is auto, but must be a number with several workers")
        return self

    def __str__(self) -> str:
        return in_words(self.cpu, self.gpu, self.workers)


def in_words(cpu: Amount, gpu: Amount, workers: int) -> str:
    """Return what a cell reserves, such as `2 x (8 CPU, 1 GPU)`."""
    cpus, gpus = (x if isinstance(x, str) else f"{x:g}" for x in (cpu, gpu))
    each = f"{cpus} CPU, {gpus} GPU"
    return each if workers == 1 else f"{workers} x ({each})"


class Study(StrictModel):
    """A validated study file."""

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"), AfterValidator(study_folder)
    ]
    """Name of the study's folder: letters, digits, `_`, `.` and `-`, starting with a letter or
    digit."""
    defaults: Grid = Grid()
    """Keys that all grids share."""
    grids: list[Grid]
    """List of grids, at least one; cells that occur in several grids run once. Imported cells need
    no grid."""
    recipes: dict[str, Fields] = {}
    """Recipes by name; the shipped ones need not be listed."""
    resources: dict[str, Resources] = {}
    """What a cell reserves, by capacity."""
    measure: MeasureSettings = MeasureSettings()
    """How the cells' models are measured for speed."""
    tuning: dict[str, Tuning] = {}
    """How values of recipes are chosen before their cells train, by the recipe's name."""

    @model_serializer(mode="wrap")
    def _without_tuning(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `tuning` out where there is none: earlier studies have no such key."""
        found: dict[str, Any] = fields(self)
        return {name: value for name, value in found.items() if name != "tuning" or value}

    def reserved(self, capacity: str) -> Resources:
        """Return what a trial of this capacity reserves."""
        return self.resources.get(capacity, Resources())


def load_study(name_or_file: str, settings: Sequence[str] = ()) -> Study:
    """Read a shipped study by name or any study file, with `KEY=VALUE` settings applied.

    Raises:
        UserError: There is no such study, or the file is not a valid one.
    """
    path = find_study_file(name_or_file)
    document = read_study_file(path, list(Study.model_fields))
    recorded = set(document) >= RECORDED
    if recorded:
        document = {name: value for name, value in document.items() if name in Study.model_fields}
    for setting in settings:
        give_base(document, setting)
        apply_setting(document, setting)
    try:
        study = Study.model_validate(document)
    except ValidationError as error:
        raise UserError(one_line(error, str(path))) from error
    study = with_shipped_recipes(study)
    for name in study.tuning:
        if name not in study.recipes:
            raise not_one_of(f"{path}: the recipe in tuning", name, study.recipes)
    if wrong := wrong_overrides(study):
        raise UserError(f"{path}: {'; '.join([*wrong, *unused_names(study)])}")
    _check_resources(study, settings)
    if not (study.grids or recorded):  # A record may be about imported cells alone.
        raise UserError(f"{path}: `grids` is []: must have at least one grid")
    return study


def _check_resources(study: Study, settings: Sequence[str]) -> None:
    """Refuse settings of a capacity that the study does not have."""
    for name in unused_names(study):
        place = name.split("`")[1]
        for setting in settings:
            if setting.startswith((f"{place}.", f"{place}=")):
                raise UserError(f"--set {setting}: {name}")


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
