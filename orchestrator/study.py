"""Study files: YAML, validated by a schema, expanded into cells.

A study is a list of grids, each the product of its axes; see `docs/study-files.md`.
"""

import itertools
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from orchestrator.errors import UserError, describe, not_one_of
from reduction import METHODS
from trainables.cell import Cell
from trainables.data import DATASETS
from trainables.recipe import Recipe
from trainables.store_path import StorePath, store_path

RECORDED = {"cells", "versions", "git_commit"}
"""What the store's record of a study, which may be given as the study, has beside it."""
SHIPPED = Path(__file__).parents[1] / "experiments" / "studies"
AXES = ("dataset", "capacity", "method", "keep_rate", "seed")
BASELINE = "deit"
OVERRIDDEN_BY = ("dataset", "method", "capacity")
"""What a recipe may be overridden by; later ones win."""


class StrictModel(BaseModel):
    """Unknown keys and silent conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


KeepRate = Annotated[float, Field(gt=0, le=1)]
Block = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0)]


class Grid(StrictModel):
    """The product of its axes; what it leaves out comes from the study's defaults."""

    dataset: list[str] = []
    capacity: list[str] = []
    method: list[str] = []
    keep_rate: list[KeepRate] = []
    seed: list[Seed] = []
    eval_keep_rates: list[KeepRate] = []
    reduction_loc: list[Block] = []
    options: dict[str, Any] = {}
    recipe: str = ""


AUTO: Literal["auto"] = "auto"
Amount = float | Literal["auto"]


class Resources(StrictModel):
    """What a trial of one capacity asks for; `auto` leaves it to a calibration."""

    cpu: Amount = 1.0
    """CPU cores a worker; whole ones are also the threads that torch uses."""
    gpu: Amount = 1.0
    """GPU of a worker, or a share of one; without any GPU in the cluster cells run on CPUs."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that train the cell together."""

    @field_validator("cpu", "gpu", mode="plain")
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

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    defaults: Grid = Grid()
    grids: list[Grid]
    recipes: dict[str, dict[str, Any]] = {}
    resources: dict[str, Resources] = {}

    def reserved(self, capacity: str) -> Resources:
        """Return what a trial of this capacity reserves."""
        return self.resources.get(capacity, Resources())


def load_study(name_or_file: str, settings: Sequence[str] = ()) -> Study:
    """Read a shipped study by name or any study file, with `KEY=VALUE` settings applied.

    Raises:
        UserError: There is no such study, or the file is not a valid one.
    """
    path = _find(name_or_file)
    try:
        document = yaml.load(path.read_text(), yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} must hold a mapping with the keys {_keys(Study)}")
    recorded = set(document) >= RECORDED
    if recorded:
        document = {name: value for name, value in document.items() if name in Study.model_fields}
    for setting in settings:
        _apply(document, setting)
    try:
        study = Study.model_validate(document)
    except ValidationError as error:
        raise UserError(describe(error, str(path))) from error
    if not (study.grids or recorded):  # A record may be about imported cells alone.
        raise UserError(f"{path}: `grids` is []: must have at least one grid")
    return study


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
    if cell.method == BASELINE:
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
    merged = study.defaults.model_dump() | grid.model_dump(exclude_unset=True)
    for axis, known in (("method", METHODS), ("dataset", DATASETS)):
        for value in merged[axis]:
            if value not in known:
                raise not_one_of(f"{origin}.{axis}", value, known)
    merged["seed"] = merged["seed"] or [0]
    if merged["method"] == [BASELINE]:
        merged["keep_rate"] = [1.0]
    for key in (*AXES, "reduction_loc", "recipe"):
        if not merged[key]:
            raise UserError(f"{origin}.{key} is missing, here and in the study's defaults")
    for values in itertools.product(*(merged[axis] for axis in AXES)):
        yield _cell_and_teacher(study, dict(zip(AXES, values, strict=True)), merged, origin)


def _cell_and_teacher(
    study: Study, identity: dict[str, Any], grid: dict[str, Any], origin: str
) -> tuple[Cell, Cell | None]:
    recipe = _recipe(study, grid["recipe"], identity)
    if not recipe.taught_by_baseline:
        return _cell(identity, grid, recipe, None, origin), None
    teacher = _baseline(study, identity, grid, origin)
    _check_start(recipe, teacher, origin)
    return _cell(identity, grid, recipe, teacher, origin), teacher


def _cell(
    identity: dict[str, Any],
    grid: dict[str, Any],
    recipe: Recipe,
    teacher: Cell | None,
    origin: str,
) -> Cell:
    if identity["method"] == BASELINE:
        identity = identity | {"keep_rate": 1.0}  # It reduces nothing at any rate: one cell.
    try:
        return Cell(
            **identity,
            reduction_loc=grid["reduction_loc"],
            options=grid["options"],
            eval_keep_rates=grid["eval_keep_rates"],
            recipe=recipe,
            prerequisite=teacher.id if teacher else None,
        )
    except ValidationError as error:
        raise UserError(describe(error, origin)) from error


def _baseline(study: Study, identity: dict[str, Any], grid: dict[str, Any], origin: str) -> Cell:
    """Return the unreduced cell of the same dataset, capacity and seed, without a teacher."""
    identity = identity | {"method": BASELINE}
    recipe = _recipe(study, grid["recipe"], identity).model_copy(update={"distillation": "none"})
    return _cell(identity, grid | {"options": {}, "eval_keep_rates": []}, recipe, None, origin)


def _check_start(recipe: Recipe, teacher: Cell, origin: str) -> None:
    """Refuse a teacher with an override that makes it another network than its student's host."""
    for field in ("host", "image_size"):
        ours, theirs = getattr(recipe, field), getattr(teacher.recipe, field)
        if ours != theirs:
            raise UserError(
                f"{origin}: {field} of the teacher {teacher.id} is {theirs!r}, "
                f"but must be that of its student, {ours!r}"
            )


def _recipe(study: Study, name: str, identity: dict[str, Any]) -> Recipe:
    if name not in study.recipes:
        raise not_one_of("recipe", name, study.recipes)
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
        raise UserError(describe(error, f"{study.name}: recipes.{name}")) from error


def _find(name_or_file: str) -> StorePath:
    if name_or_file.endswith((".yaml", ".yml")) or "/" in name_or_file:
        try:
            path = store_path(name_or_file)
        except ValueError as error:
            raise UserError(f"--study: {error}") from error
        if not path.is_file():
            raise UserError(f"there is no study file {path}")
        return path
    shipped = {path.stem: path for path in SHIPPED.glob("*.yaml")}
    if name_or_file not in shipped:
        close = get_close_matches(name_or_file, shipped, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ", or a path that ends in .yaml"
        raise UserError(f"{not_one_of('study', name_or_file, shipped)}{hint}")
    return shipped[name_or_file]


def _apply(document: dict[str, Any], setting: str) -> None:
    """Set one value of the raw study, as in `recipes.demo.epochs=1`."""
    key, separator, value = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set is {setting!r}, but must be KEY=VALUE, e.g. recipes.demo.epochs=1")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: {value!r} is not valid YAML") from error
    *parents, last = key.split(".")
    node: Any = document
    for parent in parents:
        node = _child(node, parent, setting)
    if isinstance(node, list):
        node[_index(node, last, setting)] = parsed
    else:
        node[last] = parsed


def _child(node: Any, key: str, setting: str) -> Any:
    child = node[_index(node, key, setting)] if isinstance(node, list) else None
    if isinstance(node, dict):
        child = node.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise UserError(f"--set {setting}: {key!r} holds no keys of its own")
    return child


def _index(node: list[Any], key: str, setting: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise UserError(f"--set {setting}: {key!r} must be a number below {len(node)}")
    return int(key)


def _keys(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)
