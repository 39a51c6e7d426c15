"""How far parts of a model move, and what is said where that is too far."""

import copy
import math

import pytest
import torch
from timm.models import VisionTransformer

import reduction
from trainables.loop.movement import Movement, note_on_movement, note_on_start
from trainables.recipe import Recipe


@pytest.fixture
def model():
    vit = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3
    )
    return reduction.reduce(vit, "dpcknn", keep_rate=0.5, reduction_loc=(1,))


def test_a_part_moves_by_its_difference_over_its_norm(model):
    model.head.weight.data.normal_()
    started = Movement(model)
    assert set(started.of(model).values()) == {0.0}
    before = copy.deepcopy(model)
    with torch.no_grad():
        model.pos_embed *= 1.5
        model.patch_embed.proj.weight *= 1.5
        model.patch_embed.proj.bias *= 1.5
        model.head.weight += 1
    moved = started.of(model)
    assert moved["embeddings"] == pytest.approx(0.5)
    assert (moved["backbone"], moved["method"]) == (0, 0)
    norm = math.hypot(before.head.weight.norm().item(), before.head.bias.norm().item())
    assert moved["head"] == pytest.approx(math.sqrt(before.head.weight.numel()) / norm)


def test_a_part_that_started_at_zero_has_no_share(model):
    for parameter in model.head.parameters():
        parameter.data.zero_()
    assert "head" not in Movement(model).of(model)


@pytest.mark.parametrize(
    ("moved", "fields", "expected"),
    [
        ({"embeddings": 2.72, "backbone": 0.1}, {"embeddings": "head"},
         "the first epoch moved the pretrained embeddings by 272% of their norm, which forgets "
         "what they had learnt: set `embeddings: backbone`, with a `backbone_lr_scale` below 1"),
        ({"embeddings": 0.6, "backbone": 0.7}, {}, "lower `lr` or `backbone_lr_scale`"),
        ({"embeddings": 0.5, "backbone": 0.5, "head": 9.0}, {}, None),
        ({"embeddings": 9.0}, {"pretrained": False}, None),
    ],
)  # fmt: skip
def test_what_moves_too_far_is_said_with_the_field_to_change(moved, fields, expected):
    note = note_on_movement(moved, Recipe(**fields))
    assert note is None if expected is None else expected in note


def test_a_loss_far_above_guessing_is_said():
    assert note_on_start(math.log(10) * 1.4, 10) is None
    expected = "the loss starts at 9.00, but guessing among 10 classes gives 2.30: check that"
    assert note_on_start(9.0, 10).startswith(expected)


def test_reports_say_at_the_end_of_an_epoch_what_has_moved(make_cell, finetune):
    """A host without pretrained weights may move as far as it likes."""
    finetuning = finetune(make_cell(epochs=1, batch_size=40, accumulation=1))
    assert finetuning.run(lambda: True).moved is None
    report = finetuning.run(lambda: False)
    assert report.epoch_ended
    assert set(report.moved) >= {"embeddings", "backbone"}
    assert all(share > 0 for share in report.moved.values())
    assert report.notes == ()
