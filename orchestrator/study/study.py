"""Study files: YAML, validated by a schema.

A study is a list of grids, each the product of its axes; see `docs/study-files.md`.
"""

from collections.abc import Sequence
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
    study_folder,
    unused_names,
    wrong_overrides,
)
from orchestrator.study.shipped_recipes import (
    give_base,
    with_shipped_recipes,
)
from orchestrator.study.study_file import Fields, apply_setting, find_study_file, read_study_file
from trainables.cell.cell import Removed
from trainables.cell.tuning import Tuning
from trainables.measuring.settings import MeasureSettings

RECORDED = {"cells", "versions", "git_commit"}
"""What the store's record of a study, which may be given as the study, has beside it."""


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
    def _without_tuning(self, fields: SerializerFunctionWrapHandler) -> Fields:
        """Leave `tuning` out where there is none: earlier studies have no such key."""
        found: Fields = fields(self)
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
        document = _as_given(document)
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


def _as_given(record: Fields) -> Fields:
    """Return a record as the file that it was made of: without what a store adds.

    A grid's empty fields would hide the study's defaults.
    """
    document = {name: value for name, value in record.items() if name in Study.model_fields}
    grids = [{key: value for key, value in grid.items() if value} for grid in document["grids"]]
    return document | {"grids": grids}


def _check_resources(study: Study, settings: Sequence[str]) -> None:
    """Refuse settings of a capacity that the study does not have."""
    for name in unused_names(study):
        place = name.split("`")[1]
        for setting in settings:
            if setting.startswith((f"{place}.", f"{place}=")):
                raise UserError(f"--set {setting}: {name}")
