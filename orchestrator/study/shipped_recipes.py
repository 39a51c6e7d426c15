"""Recipes that every study may name, or build its own on with `base`."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.errors import not_one_of
from orchestrator.study.names import OVERRIDDEN_BY
from orchestrator.study.study_file import SHIPPED, Fields, StudyLoader

if TYPE_CHECKING:
    from orchestrator.study.study import Study

BASE = "base"
"""Key of a recipe: the shipped one that it changes."""
RECIPES = SHIPPED.parent / "recipes.yaml"


@cache
def shipped_recipes() -> Mapping[str, Fields]:
    """Return the shipped recipes by name: those of `recipes.yaml`, and the paper study's."""
    paper, others = (
        yaml.load(path.read_text(), StudyLoader)  # noqa: S506 - A SafeLoader.
        for path in (SHIPPED / "paper.yaml", RECIPES)
    )
    return {"paper": paper["recipes"]["paper"], **others}


def give_base(document: Fields, setting: str) -> None:
    """Let a study have the shipped recipe that a setting such as `recipes.probe.lr=1` is about."""
    first, _, rest = setting.partition("=")[0].partition(".")
    name = rest.partition(".")[0]
    recipes = document.setdefault("recipes", {}) if first == "recipes" else None
    if isinstance(recipes, dict) and name in shipped_recipes():
        recipes.setdefault(name, {BASE: name})


def with_shipped_recipes(study: "Study") -> "Study":
    """Return the study with the shipped recipes that it names, and each `base` filled in.

    Raises:
        UserError: A recipe builds on one that is not shipped.
    """
    grids = (study.defaults, *study.grids)
    capacities = {capacity for grid in grids for capacity in grid.capacity}
    shipped = {name: _without_others(own, capacities) for name, own in shipped_recipes().items()}
    named = {grid.recipe for grid in grids} & shipped.keys()
    recipes = {name: shipped[name] for name in sorted(named)} | {
        name: _filled_in(name, own, shipped) for name, own in study.recipes.items()
    }
    return study.model_copy(update={"recipes": recipes})


def _without_others(recipe: Fields, capacities: set[str]) -> Fields:
    """Leave out overrides for capacities that the study does not have."""
    by_capacity = recipe.get("capacity", {})
    left = {name: fields for name, fields in by_capacity.items() if name in capacities}
    return {**recipe, "capacity": left}


def _filled_in(name: str, own: Fields, shipped: Mapping[str, Fields]) -> Fields:
    if BASE not in own:
        return own
    if own[BASE] not in list(shipped):
        raise not_one_of(f"recipes.{name}.{BASE}", own[BASE], shipped)
    base = shipped[own[BASE]]
    fields = {key: value for key, value in own.items() if key not in (BASE, *OVERRIDDEN_BY)}
    kept = {key: value for key, value in base.items() if key not in OVERRIDDEN_BY}
    overrides = {
        axis: _joined(base.get(axis, {}), own.get(axis, {}), fields) for axis in OVERRIDDEN_BY
    }
    return kept | fields | overrides


def _joined(base: Mapping[str, Fields], own: Any, replaced: Fields) -> Any:
    """Return overrides of both, the base's without fields that the recipe gives for all."""
    if not isinstance(own, dict):
        return own  # A mistake, which is named with the others.
    joined: dict[str, Any] = {
        value: {field: x for field, x in fields.items() if field not in replaced}
        for value, fields in base.items()
    }
    for value, fields in own.items():
        joined[value] = joined.get(value, {}) | fields if isinstance(fields, dict) else fields
    return joined
