"""The text of study files: where they are found, how YAML is read, what `--set` changes."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import UserError, not_one_of
from trainables.storage.paths import StorePath, store_path

Fields = dict[str, Any]
"""Keys of a study file with their values."""

SHIPPED = Path(__file__).parents[2] / "experiments" / "studies"
_SCALARS = {
    "tag:yaml.org,2002:merge": (r"<<", "<"),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""Tag -> the plain scalars that have it in YAML 1.2, and what they can begin with.

https://yaml.org/spec/1.2.2/#1032-tag-resolution"""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Return what PyYAML asks for: first character -> tags and patterns of plain scalars."""
    resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, (pattern, first) in _SCALARS.items():
        for character in [*first, ""]:
            resolvers.setdefault(character, []).append((tag, re.compile(f"^(?:{pattern})$")))
    return resolvers


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


class StudyLoader(yaml.SafeLoader):
    """Reads YAML as version 1.2 has it, and refuses a key given twice.

    PyYAML follows version 1.1, where `off` is false, `5e-4` is text, `1:30` is 90 and
    `2026-11-29` a date: https://github.com/yaml/pyyaml/issues/486.
    """

    yaml_implicit_resolvers = _resolvers()
    yaml_constructors = yaml.SafeLoader.yaml_constructors | {"tag:yaml.org,2002:int": _integer}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys differ."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def find_study_file(name_or_file: str) -> StorePath:
    """Return the path of a shipped study, by its name, or of any study file.

    Raises:
        UserError: There is none.
    """
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


def read_study_file(path: StorePath, allowed: Sequence[str]) -> Fields:
    """Return the mapping that a study file holds.

    Args:
        path: The file.
        allowed: Keys of a study, for the message where there is no mapping.

    Raises:
        UserError: The file cannot be read, or is no YAML mapping.
    """
    try:
        document = yaml.load(path.read_text(), StudyLoader)  # noqa: S506 - A SafeLoader.
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} must hold a mapping with the keys {', '.join(allowed)}")
    return document


def apply_setting(document: Fields, setting: str) -> None:
    """Set one value of the raw study, as in `recipes.demo.epochs=1`.

    Raises:
        UserError: It is not KEY=VALUE, or names no place, or a recipe that there is not.
    """
    key, separator, value = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set is {setting!r}, but must be KEY=VALUE, e.g. recipes.demo.epochs=1")
    try:
        parsed = yaml.load(value, StudyLoader)  # noqa: S506 - A SafeLoader.
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: {value!r} is not valid YAML") from error
    *parents, last = key.split(".")
    _check_recipe(document.get("recipes"), parents, setting)
    node: Any = document
    for parent in parents:
        node = _child(node, parent, setting)
    if isinstance(node, list):
        node[_index(node, last, setting)] = parsed
    else:
        node[last] = parsed


def _check_recipe(recipes: object, parents: Sequence[str], setting: str) -> None:
    if parents[:1] != ["recipes"] or len(parents) < 2 or not isinstance(recipes, Mapping):
        return
    if parents[1] not in recipes:
        raise not_one_of(f"--set {setting}: the recipe", parents[1], map(str, recipes))


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
