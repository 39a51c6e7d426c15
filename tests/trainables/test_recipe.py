"""The recipe: published defaults, and fields that contradict each other are refused."""

import json

import pytest
from pydantic import ValidationError

from trainables.cell.cell import Cell
from trainables.cell.cell_folder import CellFolder
from trainables.recipe import Recipe
from trainables.storage.paths import store_path


def test_defaults_are_the_published_values():
    recipe = Recipe()
    assert (recipe.lr, recipe.min_lr, recipe.warmup_lr) == (1e-3, 1e-5, 1e-6)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.warmup_prefix) == (30, 20, False)
    assert (recipe.batch_size, recipe.accumulation, recipe.ema_decay) == (256, 2, 0.99996)
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing) == (0.8, 1.0, 0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 5, "warmup_epochs": 6}, "warmup_epochs is 6, but must be at most epochs (5)"),
        ({"batch_size": 33}, "batch_size is 33, but must be even with mixup or cutmix"),
        ({"crop_scale": (0.9, 0.5)}, "crop_scale is (0.9, 0.5), but must ascend"),
        ({"cache": 200}, "cache is 200, but must be at least image_size (224)"),
        ({"rand_augment": "augmix-m5"}, "'augmix-m5' has the section 'augmix', but must be 'rand'"),
        (
            {"backbone": "frozen", "pretrained": False},
            "backbone is 'frozen', but must be 'full' where pretrained is false",
        ),
        (
            {"backbone": "lora", "embeddings": "head"},
            "embeddings is 'head', but must be 'backbone' where backbone is 'lora'",
        ),
        ({"epoch": 3}, "Extra inputs are not permitted"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(ValidationError) as caught:
        Recipe(**values)
    assert message in str(caught.value)


def test_odd_batches_are_fine_where_nothing_is_mixed():
    assert Recipe(batch_size=33, mixup=0, cutmix=0).batch_size == 33


def test_what_does_not_change_the_outcome_is_not_part_of_it():
    assert Recipe(loader_workers=8, checkpoint_minutes=1).outcome() == Recipe().outcome()
    assert Recipe(compile=True, grad_checkpointing=True).outcome() == Recipe().outcome()
    assert Recipe(lr=2e-3).outcome() != Recipe().outcome()
    assert "loader_workers" not in Recipe().outcome()


def test_the_default_of_a_field_added_later_leaves_older_ids_as_they_were():
    assert "repeated_augmentation" not in Recipe(repeated_augmentation=1).outcome()
    assert Recipe(repeated_augmentation=3).outcome()["repeated_augmentation"] == 3


def test_the_size_of_adapters_counts_where_there_are_some():
    assert Recipe(lora_rank=2, lora_alpha=3.0).outcome() == Recipe().outcome()
    assert "backbone" not in Recipe().outcome()
    four, eight = (Recipe(backbone="lora", lora_rank=rank).outcome() for rank in (4, 8))
    assert (four["lora_rank"], eight["lora_rank"], four["backbone"]) == (4, 8, "lora")
    assert "lora_rank" not in Recipe(backbone="frozen").outcome()


def test_how_embeddings_train_counts_where_the_backbone_has_a_rate_of_its_own():
    """Cells from before there was a choice trained them as the head, and keep their ids."""
    assert "embeddings" not in Recipe().outcome()
    for field in ({"backbone_lr_scale": 0.1}, {"backbone_freeze_epochs": 2}, {"layer_decay": 0.7}):
        assert Recipe(**field).outcome()["embeddings"] == "backbone"
        assert "embeddings" not in Recipe(**field, embeddings="head").outcome()
        assert "embeddings" not in Recipe(**field, pretrained=False).outcome()


@pytest.mark.parametrize(
    ("kind", "counting"),
    [
        ("none", set()),
        ("soft", {"distillation_alpha", "distillation_tau"}),
        ("hard", {"distillation_alpha"}),
        (
            "dynamicvit",
            {
                "classification_weight",
                "teacher_logits_weight",
                "teacher_tokens_weight",
                "teacher_tokens_loss",
            },
        ),
    ],
)
def test_fields_of_distillation_count_where_they_take_part(kind, counting):
    undistilled = Recipe().outcome().keys()
    always = set() if kind == "none" else {"distillation", "teacher"}
    assert Recipe(distillation=kind).outcome().keys() - undistilled == counting | always
    assert "lr" in undistilled


def test_a_cell_from_before_there_was_a_choice_trains_its_embeddings_as_the_head(tmp_path):
    recipe = Recipe(backbone_lr_scale=0.1, embeddings="head")
    cell = Cell(
        dataset="digits", method="topk", capacity="tiny", keep_rate=0.5, reduction_loc=(3, 6, 9),
        recipe=recipe,
    )  # fmt: skip
    assert cell.id == "digits-topk-tiny-r0.5-s0-f1ce31e6", "as at 0.1.0"
    document = cell.model_dump(mode="json")
    del document["recipe"]["embeddings"]
    (tmp_path / "cell.json").write_text(json.dumps(document))
    found = CellFolder(store_path(str(tmp_path))).cell()
    assert (found.id, found.recipe.embeddings) == (cell.id, "head")
