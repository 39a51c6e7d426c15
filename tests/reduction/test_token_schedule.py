"""Keep rates, counts and removals become token counts."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import reduction
from reduction.schedule import keep_fractions, make_schedule, removals, token_targets


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.25, (49, 12, 3)),
        (0.5, (98, 49, 24)),
        (0.7, (137, 96, 67)),
        (0.9, (176, 158, 142)),
        (1, (196, 196, 196)),
        ([0.7, 0.5, 0.5], (137, 98, 98)),
    ],
)
def test_targets_on_196_patches(rate, expected):
    assert token_targets(rate, 3, 196) == expected


def test_a_number_is_cumulative_and_a_list_is_absolute():
    assert keep_fractions(0.5, 3) == (0.5, 0.25, 0.125)
    assert keep_fractions((0.5, 0.5), 2) == (0.5, 0.5)


def test_counts_do_not_fall_by_rounding():
    for side in range(4, 65):
        for percent in range(5, 100, 5):
            exact = [int(Fraction(percent, 100) ** (s + 1) * side * side) for s in range(3)]
            if min(exact) >= 1:
                assert list(token_targets(percent / 100, 3, side * side)) == exact
    for count in range(1, 197):  # spelled as fractions
        assert token_targets([count / 196], 1, 196) == (count,)


def test_rates_of_other_number_types():
    assert keep_fractions(np.float32(0.7), 2) == (Fraction(7, 10), Fraction(49, 100))
    assert keep_fractions(np.array([0.7, 0.5]), 2) == (Fraction(7, 10), Fraction(1, 2))


@pytest.mark.parametrize(
    ("r", "expected"),
    [
        (8, [8] * 12),
        ((8, 0), [8] * 12),
        ((8, -1.0), [16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0]),
        ((13, -1), [26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0]),
        ((8, 1), [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16]),
        ([0, 30, 5], [0, 30, 5, *[0] * 9]),
        (list(range(14)), list(range(12))),
    ],
)
def test_removals(r, expected):
    assert list(removals(r, 12)) == expected


REFUSED = {
    "two amounts": (
        {"keep_rate": 0.5, "r": 8},
        ValueError,
        "keep_rate and r are given, but must be one of keep_rate, tokens and r",
    ),
    "rate as text": ({"keep_rate": "0.5"}, TypeError, "keep_rate is '0.5', but must be a number"),
    "rate as a tensor": (
        {"keep_rate": torch.tensor(0.5)},
        TypeError,
        "keep_rate is tensor(0.5000), but must be a number or a list of numbers",
    ),
    "list with a truth": ({"keep_rate": [0.5, True]}, TypeError, "keep_rate has True, but must be"),
    "block as a number": (
        {"keep_rate": 0.5, "reduction_loc": 1},
        TypeError,
        "reduction_loc is 1, but must be a list of integers",
    ),
    "blocks as text": (
        {"keep_rate": 0.5, "reduction_loc": "12"},
        TypeError,
        "reduction_loc is '12', but must be a list of integers",
    ),
    "tokens as fractions": ({"tokens": [0.5, 0.2]}, TypeError, "tokens is [0.5, 0.2], but must"),
    "too few tokens": ({"tokens": [9]}, ValueError, "tokens has 1 values [9], but must have one"),
    "no tokens": ({"tokens": [9, 0]}, ValueError, "tokens has 0, but must be at least 1 at every"),
    "tokens that rise": ({"tokens": [9, 12]}, ValueError, "tokens is [9, 12], but must not rise"),
    "r below 0": ({"r": -1}, ValueError, "r has -1, but must be at least 0 in every block"),
    "r as a fraction": ({"r": 0.5}, TypeError, "r is 0.5, but must be a list of integers"),
    "inflection": ({"r": (8, 2)}, ValueError, "r has the inflection 2, but must be in [-1, 1]"),
    "inflection as text": ({"r": (8, "up")}, TypeError, "r is (8, 'up'), but must be a number and"),
    "r takes all": (
        {"r": 20},
        ValueError,
        "r removes 40 of 35 patch tokens up to block 2, but must leave at least 1 for topk",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(small_host, arguments, error, message):
    with pytest.raises(error) as caught:
        reduction.reduce(small_host, "topk", **{"reduction_loc": (1, 2)} | arguments)
    assert str(caught.value).startswith(message)


def counts(model, images):
    return [int(live[0]) for live in model.forward_with_trace(images)[1].tokens.values()]


@pytest.mark.parametrize("method", ["topk", "evit", "tome", "atc", "dynamicvit", "sit", "random"])
def test_the_three_spellings_agree(small_host, small_images, method):
    spellings = ({"tokens": [28, 21]}, {"r": 7}, {"keep_rate": [28 / 35, 21 / 35]})
    found = [
        counts(reduction.reduce(small_host, method, **amount, reduction_loc=(1, 2)), small_images)
        for amount in spellings
    ]
    assert found == [[29, 22] if method == "evit" else [28, 21]] * 3


def test_r_acts_in_every_block_and_at_any_size(make_host, small_images):
    model = reduction.reduce(make_host(dynamic_img_size=True), "tome", r=16)
    assert counts(model, small_images) == [19, 10, 5, 3]  # at most half of the tokens each
    assert counts(model, torch.zeros(1, 3, 32, 40)) == [64, 48, 32, 16]


def test_the_dial_turns(small_host, small_images):
    model = reduction.reduce(small_host, "tome", r=0)
    torch.testing.assert_close(model(small_images), small_host(small_images))
    model.r = 4
    assert model.r == 4
    assert counts(model, small_images) == [31, 27, 23, 19]
    expected = reduction.reduce(small_host, "tome", r=4)(small_images)
    assert torch.equal(model(small_images), expected)
    reduction.set_schedule(model, tokens=[20, 12], reduction_loc=(0, 2))
    assert (model.r, model.keep_rate, model.reduction_loc) == (None, None, (0, 2))
    assert counts(model, small_images) == [20, 12]


def test_the_dial_turns_at_the_blocks_that_were_asked_for(small_host, small_images):
    model = reduction.reduce(small_host, "topk", keep_rate=0.5, reduction_loc=(1, 3))
    model.r = 4
    assert counts(model, small_images) == [31, 27]
    assert reduction.flops(model) == reduction.flops(
        reduction.reduce(small_host, "topk", r=4, reduction_loc=(1, 3))
    )


def test_the_dial_leaves_parameters(small_host, small_images):
    model = reduction.reduce(small_host, "dynamicvit", keep_rate=0.5, reduction_loc=(1, 2))
    parameter = model.stages[0].in_fc.weight
    reduction.set_schedule(model, tokens=[30, 25])
    assert model.stages[0].in_fc.weight is parameter
    assert counts(model, small_images) == [30, 25]
    with pytest.raises(ValueError, match=r"is \[0, 1\], but must stay \[1, 2\] for dynamicvit"):
        reduction.set_schedule(model, tokens=[30, 25], reduction_loc=(0, 1))


def test_the_dial_of_a_method_with_a_parameter_for_each_token(small_host):
    model = reduction.reduce(small_host, "sit", keep_rate=0.5, reduction_loc=(1, 2))
    with pytest.raises(ValueError, match="^sit has parameters for each token it keeps, so that"):
        model.r = 8
    assert model.keep_rate == 0.5


def test_the_dial_of_a_control(small_host, small_images):
    model = reduction.reduce(small_host, "linf", keep_rate=1.0, reduction_loc=(1, 2))
    reduction.set_schedule(model, keep_rate=0.5)
    expected = reduction.reduce(small_host, "linf", keep_rate=0.5, reduction_loc=(1, 2))
    assert torch.equal(model(small_images), expected(small_images))


def test_a_plain_host_has_no_dial(small_host):
    with pytest.raises(TypeError, match="is a VisionTransformer, but must be a reduced model"):
        reduction.set_schedule(small_host, r=8)


def test_a_schedule_takes_the_default_blocks():
    assert make_schedule(12, keep_rate=0.5).blocks == (3, 6, 9)
    assert make_schedule(12, r=8).blocks == tuple(range(12))
    assert make_schedule(12, r=8, reduction_loc=range(1, 12)).blocks == tuple(range(1, 12))
