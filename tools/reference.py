"""Write what follows from the code into the documents: tables of keys, and the editors' schema.

    make reference

In `docs/study-files.md` whatever stands between `<!-- keys: NAME -->` and `<!-- end -->` becomes a
table of the keys of a model, from its types and docstrings; `experiments/studies/study.schema.json`
becomes the JSON schema of study files.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.study.names import OVERRIDDEN_BY
from orchestrator.study.shipped_recipes import BASE, shipped_recipes
from orchestrator.study.study import Grid, Resources, Study
from reduction import METHODS
from trainables.cell.cell import OWN_METHOD
from trainables.cell.tuning import TriedAt, Tuning
from trainables.data import DATASETS, NAMED
from trainables.measuring.settings import MeasureSettings
from trainables.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "study-files.md"
SCHEMA = ROOT / "experiments" / "studies" / "study.schema.json"
TABLE = re.compile(r"(?<=<!-- keys: )([A-Z]\w+(?:\.\w+)?)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
MODELS: Mapping[str, type[BaseModel]] = {
    model.__name__: model
    for model in (Study, Grid, Resources, MeasureSettings, Tuning, TriedAt, Recipe)
}
PARTS = {
    "start": "task",
    "optimiser": "lr",
    "length": "epochs",
    "single_label": "crop_scale",
    "several_labels": "cutout",
    "learned_decisions": "keep_rate_weight",
    "distillation": "distillation",
    "speed": "checkpoint_minutes",
}
"""Part of the recipe -> its first field."""
LINKS = {
    "shipped recipe; required": "#shipped-recipes",
    "the shipped ones": "#shipped-recipes",
    "Imported cells": "tracking.md#importing-runs-of-a-project",
    "Names of datasets": "#datasets",
    "Names of methods": "methods.md",
    "keep rates in (0, 1]": "concepts.md#words",
    "rows of the results": "tables.md#results",
    "features without labels": "#features-without-labels",
    "pretrained weights;": "#weights-of-the-hosts",
    "image cache": "#image-cache",
    "Decode and augment once": "#shared-input",
    "Processes that train a cell together": "running.md#several-workers",
    "Or `auto`": "#measured-shares",
    "is trained first": "#teachers",
    "values of recipes are chosen": "#tuning",
}
"""Words in the docstrings -> what a reader may want to read about them."""


def document(text: str) -> str:
    """Return the page with its tables as they follow from the models."""
    return TABLE.sub(lambda found: f"{found[1]}{found[2]}{table(found[1])}", text)


def table(name: str) -> str:
    """Return the keys of `MODEL`, or of `MODEL.PART`, as a Markdown table."""
    model, _, part = name.partition(".")
    fields = MODELS[model].model_fields
    names = part_of_recipe(part) if part else list(fields)
    heading = "field" if part else "key"
    rows = [f"| `{key}` | {default(fields[key])} | {meaning(fields[key])} |" for key in names]
    return "\n".join([f"| {heading} | default | meaning |", "|---|---|---|", *rows, ""])


def part_of_recipe(part: str) -> list[str]:
    """Return the fields from a part's first one up to the next part's."""
    names = list(Recipe.model_fields)
    starts = [*(names.index(first) for first in PARTS.values()), len(names)]
    place = list(PARTS).index(part)
    return names[starts[place] : starts[place + 1]]


def default(field: FieldInfo) -> str:
    """Return a field's default as YAML."""
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, float):
        return f"`{Decimal(repr(value)):f}`"  # PyYAML reads 1e-05 as text.
    return f"`{json.dumps(value)}`"


def meaning(field: FieldInfo) -> str:
    """Return a field's docstring in one line, with links."""
    text = " ".join((field.description or "").split())
    for words, target in LINKS.items():
        linked = words.rstrip(";")
        text = text.replace(words, f"[{linked}]({target}){words[len(linked) :]}")
    return text


def schema() -> dict[str, Any]:
    """Return the JSON schema of study files, with the names of methods, datasets and recipes."""
    made = Study.model_json_schema()
    fields = Recipe.model_json_schema()["properties"]
    overrides = {
        name: {"type": "object", "additionalProperties": {"$ref": "#/$defs/Fields"}}
        for name in OVERRIDDEN_BY
    }
    closed = {"type": "object", "additionalProperties": False}
    base = {"enum": list(shipped_recipes()), "description": "The shipped recipe that it changes."}
    made["$defs"] |= {
        "Fields": closed | {"properties": fields},
        "Recipe": closed | {"properties": fields | overrides | {BASE: base}},
    }
    made["properties"]["recipes"]["additionalProperties"] = {"$ref": "#/$defs/Recipe"}
    axes = made["$defs"]["Grid"]["properties"]
    axes["method"]["items"] = {"anyOf": [{"enum": list(METHODS)}, {"pattern": OWN_METHOD}]}
    named = {"pattern": rf"^({'|'.join(NAMED)})\.[A-Za-z0-9_.-]+$"}
    axes["dataset"]["items"] = {"anyOf": [{"enum": list(DATASETS)}, named]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def written() -> dict[Path, str]:
    """Return each file that this module keeps -> the text it should have."""
    return {
        DOCUMENT: document(DOCUMENT.read_text()),
        SCHEMA: json.dumps(schema(), indent=1) + "\n",
    }


def main() -> None:
    """Bring the files up to date and print which ones have changed."""
    for path, text in written().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
