"""The values that a section `tuning` tries, and the recipes that follow from them."""

import itertools

import pytest
from pydantic import ValidationError

from trainables.cell.tuning import Tuning, with_values
from trainables.recipe import Recipe

RECIPE = Recipe(epochs=30, warmup_epochs=20, backbone_freeze_epochs=10)


def test_lists_are_tried_in_all_combinations_and_each_once():
    tuning = Tuning.model_validate({"values": {"lr": [0.1, 0.2, 0.1], "drop_path": [0.0, 0.1]}})
    pairs = itertools.product([0.1, 0.2], [0.0, 0.1])
    assert tuning.points() == [{"lr": lr, "drop_path": rate} for lr, rate in pairs]


def test_ranges_are_drawn_evenly_in_the_logarithm_and_always_the_same():
    section = {
        "values": {"lr": {"low": 1e-5, "high": 1e-1}, "ema_decay": [None, 0.9]},
        "samples": 400,
    }
    points = Tuning.model_validate(section).points()
    assert points == Tuning.model_validate(section).points()
    rates = [point["lr"] for point in points]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    assert abs(sum(rate < 1e-3 for rate in rates) / len(rates) - 0.5) < 0.1
    assert {point["ema_decay"] for point in points} == {None, 0.9}
    other = Tuning.model_validate(section | {"at": {"seed": 1001}})
    assert other.points() != points


def test_a_shorter_trial_warms_up_and_rests_for_as_much_less_and_is_scored_on_the_holdout():
    tuning = Tuning.model_validate({"values": {"lr": [0.5]}, "epochs": 10})
    trial = tuning.trial_recipe(RECIPE, {"lr": 0.5})
    changed = {"lr": 0.5, "epochs": 10, "warmup_epochs": 7, "backbone_freeze_epochs": 3}
    assert trial == with_values(RECIPE, changed | {"select_on": "holdout"})


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"values": {}}, "at least 1"),
        ({"values": {"lr": []}}, "values.lr is [], but must have at least one value"),
        ({"values": {"image_size": [224, 384]}}, "values has 'image_size', but must have fields"),
        ({"values": {"compile": [True, False]}}, "values has 'compile', but must have fields"),
        ({"values": {"lr": {"low": 1.0, "high": 0.1}}, "samples": 3}, "high is 0.1, but must be"),
        ({"values": {"lr": {"low": 0.1, "high": 1.0}}}, "samples is None, but values has lr as"),
        ({"values": {"lr": [0.1]}, "samples": 3}, "samples is 3, but values has no range"),
        ({"values": {"lr": [0.1]}, "per": ["seed"]}, "'dataset', 'capacity' or 'method'"),
    ],
)
def test_what_cannot_be_searched_is_refused(section, told):
    with pytest.raises(ValidationError) as refused:
        Tuning.model_validate(section)
    assert told in str(refused.value)
