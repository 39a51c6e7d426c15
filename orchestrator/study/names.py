"""Names in a study that nothing answers to, or that are taken."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.errors import describe_errors
from orchestrator.study.study_file import Fields
from reduction import METHODS
from trainables.data import DATASETS, is_dataset
from trainables.recipe import Recipe
from trainables.storage import layout

if TYPE_CHECKING:
    from orchestrator.study.study import Study

OVERRIDDEN_BY = ("dataset", "method", "capacity")
"""What a recipe may be overridden by; later ones win."""


def study_folder(name: str) -> str:
    """Return the name of a study unless the storage itself has a folder of that name.

    Raises:
        ValueError: It has.
    """
    taken = sorted(file.folder for file in layout.LAYOUT if file.owner == layout.OF_STORAGE)
    if name in taken:
        raise ValueError(f"it must be none of the storage's own folders: {', '.join(taken)}")
    return name


def wrong_overrides(study: "Study") -> list[str]:
    """Return what is wrong with the overrides of all recipes, whether a cell uses them or not."""
    known = {"dataset": DATASETS, "method": METHODS}
    wrong = []
    for place, axis, value, fields in _overrides(study):
        named = ":" in value if axis == "method" else axis == "dataset" and is_dataset(value)
        if axis in known and value not in known[axis] and not named:
            wrong.append(f"`{place}`: there is no {axis} {value!r}{_hint(value, known[axis])}")
        wrong += [f"{place}: {words}" for words in _wrong_fields(fields)]
    return wrong


def unused_names(study: "Study") -> list[str]:
    """Return in words which names of capacities have no cell."""
    grids = [study.defaults, *study.grids]
    capacities = {capacity for grid in grids for capacity in grid.capacity}
    if not capacities:  # A study of imported cells.
        return []
    places = {f"resources.{capacity}": capacity for capacity in study.resources}
    overrides = _overrides(study)
    places |= {place: value for place, axis, value, _ in overrides if axis == "capacity"}
    return [
        f"`{place}` has no effect: no grid has this capacity{_hint(capacity, capacities)}"
        for place, capacity in places.items()
        if capacity not in capacities
    ]


def _overrides(study: "Study") -> Iterator[tuple[str, str, str, Fields]]:
    """Yield the place, axis, name and fields of each override."""
    for name, recipe in study.recipes.items():
        for axis in OVERRIDDEN_BY:
            by_value = recipe.get(axis)
            for value, fields in by_value.items() if isinstance(by_value, dict) else ():
                if isinstance(fields, dict):
                    yield f"recipes.{name}.{axis}.{value}", axis, str(value), fields


def _wrong_fields(fields: Fields) -> list[str]:
    """Return what is wrong with single fields; rules among several hold for whole recipes only."""
    try:
        Recipe.model_validate(fields)
    except ValidationError as error:
        return describe_errors(error, rules=False)
    return []


def _hint(given: str, names: Iterable[str]) -> str:
    close = get_close_matches(given, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else f" ({', '.join(sorted(names))})"
