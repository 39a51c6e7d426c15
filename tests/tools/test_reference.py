"""What follows from the code, in documents and the schema, is up to date and right."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from orchestrator.study.study_file import SHIPPED
from trainables.recipe import Recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_follows_from_the_code_is_up_to_date(reference):
    stale = [path.name for path, text in reference.written().items() if path.read_text() != text]
    assert stale == [], "run: make reference"


def test_every_field_of_the_recipe_is_in_one_part(reference):
    parts = [field for part in reference.PARTS for field in reference.part_of_recipe(part)]
    assert parts == list(Recipe.model_fields)


def test_every_key_says_what_it_means(reference):
    for model in reference.MODELS.values():
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no docstring"


@pytest.fixture(scope="module")
def validator(reference):
    schema = json.loads(reference.SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def yaml_12(path):
    """Read a file as editors do: YAML 1.2 takes 1e-3 for a number, PyYAML for text."""
    number = r"^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$"
    loader = type("Loader", (yaml.SafeLoader,), {})
    pattern = re.compile(number)
    loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+0123456789."))
    return yaml.load(path.read_text(), loader)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_editors_accept_every_shipped_study_and_find_its_schema(validator, path):
    validator.validate(yaml_12(path))
    first = path.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=study.schema.json"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("grid",), []),
        (("grids", 0, "method"), ["topkk"]),
        (("grids", 0, "keep_rate"), [0]),
        (("recipes", "a", "epoch"), 3),
        (("recipes", "a", "epochs"), "three"),
        (("recipes", "a", "dataset", "digits", "lrr"), 0.1),
        (("resources", "tiny", "gpu"), "all"),
    ],
)
def test_editors_mark_what_a_launch_would_refuse(validator, place, value):
    study = {
        "name": "s",
        "grids": [{"dataset": ["digits"], "method": ["topk"]}],
        "recipes": {"a": {"epochs": 3, "dataset": {"digits": {"lr": 0.1}}}},
        "resources": {"tiny": {"gpu": "auto"}},
    }
    validator.validate(study)
    wrong = copy.deepcopy(study)
    inner = wrong
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert not validator.is_valid(wrong)
