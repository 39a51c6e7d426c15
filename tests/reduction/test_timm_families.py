"""The documents' table of timm's ViTs, against what `reduce` takes."""

import re
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch

import reduction

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text()
COLUMNS = "| module | class | block | attention | N | such as | reduced |\n"
ROWS = [
    tuple(cell.strip(" `") for cell in line.strip("|").split("|"))
    for line in PAGE.split(COLUMNS)[1].split("\n\n")[0].splitlines()[1:]
]
OTHERS = re.findall(r"`(\w+)`", PAGE.split("walk of their own:")[1].split(". So is")[0])


def build(name):
    """A model of one block where timm lets us choose, without memory."""
    with torch.device("meta"):
        try:
            return timm.create_model(name, depth=1)
        except (AssertionError, TypeError):  # depth comes with other lists, or not at all
            return timm.create_model(name)


def kind(model):
    block = model.blocks[0]
    attention = type(block.attn).__name__ if hasattr(block, "attn") else "none"
    return type(model).__name__, type(block).__name__, attention


def taken(model):
    """Which methods take a host: `yes` for all that were tried."""
    found = []
    for method in ("topk", "tome", "linf"):
        options = {"score": "received"} if method == "topk" else {}
        try:
            reduction.reduce(model, method, tokens=[9], reduction_loc=(0,), **options)
        except (TypeError, ValueError):
            continue
        found.append(method)
    return {3: "yes", 1: "before blocks", 0: "no"}[len(found)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[5])
def test_the_example_of_a_kind(row):
    model = build(row[5])
    assert kind(model) == row[1:4]
    assert taken(model) == row[6]


@pytest.mark.parametrize("name", OTHERS)
def test_other_designs_are_refused(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    kinds = "VisionTransformer, Eva, NaFlexVit, Beit or VisionTransformerRelPos"
    with pytest.raises(TypeError, match=f"but must be a timm {kinds}$"):
        reduction.reduce(model, "topk")


@pytest.mark.slow
def test_every_entry_point_is_in_the_table():
    counted = Counter(
        (module, *kind(build(name)))
        for module in dict.fromkeys(row[0] for row in ROWS)
        for name in timm.list_models(module=module)
    )
    assert counted == {row[:4]: int(row[4]) for row in ROWS}
