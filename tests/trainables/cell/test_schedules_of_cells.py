"""What a cell may be asked to keep: a rate, tokens, or what is removed."""

import pytest
from pydantic import ValidationError

from trainables.cell.cell import Cell
from trainables.models.host import build_model
from trainables.recipe import Recipe

HOST = {"host": "digits_tiny_patch4_32", "image_size": 32, "pretrained": False}


def cell(**fields):
    given = {"dataset": "digits", "method": "topk", "capacity": "tiny", "reduction_loc": (3, 6, 9)}
    return Cell(**given | {"recipe": Recipe(**HOST)} | fields)


OLD = ("digits-topk-tiny-r0.5-s0-bece9fc0", "digits-topk-tiny-r0.5-4c2d722d")
FALLING = {"r": 8, "inflect": -1}
BUDGETS = [
    ({"keep_rate": 0.5}, "r0.5", "0.5", (32, 16, 8)),
    ({"tokens": [48, 32, 20]}, "tokens48.32.20", "tokens=48,32,20", (48, 32, 20)),
    ({"r": 8}, "minus8", "r=8", (56, 48, 40)),
    ({"r": [8, 4, 0]}, "minus8.4.0", "r=8,4,0", (56, 52, 52)),
    ({"r": FALLING}, "minus8-inflect--1", "r=8 inflect -1", (48, 40, 40)),
]


@pytest.mark.parametrize(("fields", "in_id", "words", "left"), BUDGETS)
def test_a_budget_is_in_the_id_in_words_and_in_the_model(fields, in_id, words, left):
    """64 patches; ToMe's schedule falls from 2 r to 0."""
    made = cell(**fields)
    assert made.id.startswith(f"digits-topk-tiny-{in_id}-s0-")
    assert made.budget == words
    assert Cell.model_validate_json(made.model_dump_json()) == made
    model = build_model(made, 10)
    assert tuple(stage.spec.target(64) for stage in model.stages) == left


def test_every_budget_is_a_cell_of_its_own():
    cells = [cell(**fields) for fields, *_ in BUDGETS]
    assert len({made.id[-8:] for made in cells}) == len({made.series for made in cells}) == 5
    assert cell(r=1).id != cell(keep_rate=1.0).id
    assert cell(r=8).at_rate(0.5) == cell(keep_rate=0.5)


def test_ids_from_before_there_was_a_choice_stay():
    made = Cell(dataset="digits", method="topk", capacity="tiny", keep_rate=0.5,
                reduction_loc=(3, 6, 9), recipe=Recipe())  # fmt: skip
    assert (made.id, made.series) == OLD


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "none given, but must be one of keep_rate, tokens and r"),
        ({"r": 8, "keep_rate": 0.5}, "keep_rate and r given, but must be one of"),
        ({"tokens": [48, 32]}, "tokens has 2 values [48, 32], but must have one for each of the 3"),
        ({"tokens": [32, 48, 20]}, "must not rise from stage to stage"),
        ({"r": 8, "eval_keep_rates": (0.5,)}, "eval_keep_rates go with keep_rate, but r=8 is"),
        ({"r": 8, "method": "dynamicvit"}, "dynamicvit learns to meet a keep rate, but none is"),
    ],
)
def test_what_makes_no_sense_is_one_line(fields, message):
    with pytest.raises(ValidationError) as caught:
        cell(**fields)
    assert message in str(caught.value)
