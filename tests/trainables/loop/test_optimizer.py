"""Parameter groups against the published study's, made with its own code."""

import json

import pytest
import timm
import torch
from timm.models import VisionTransformer
from timm.models.deit import VisionTransformerDistilled
from timm.optim import param_groups_layer_decay

import reduction
from trainables.loop.optimizer import build_optimizer, parameter_groups, set_learning_rates
from trainables.recipe import Recipe

RECIPE = Recipe(
    embeddings="head",
    backbone_lr_scale=0.01,
    backbone_freeze_epochs=5,
    batch_size=512,
    accumulation=2,
)


def model_of(method):
    vit = VisionTransformer(embed_dim=48, num_heads=3, num_classes=10)
    return reduction.reduce(vit, method, keep_rate=0.7)


@pytest.mark.parametrize("method", ["deit", "dpcknn"])
def test_groups_are_the_published_ones(reference, method):
    published = json.loads((reference / "units_A.json").read_text())["groups"][method]
    expected = [
        {
            "names": [name.replace("dpcknn.stage", "stages.") for name in group["names"]],
            "base_lr": pytest.approx(group["lr"], rel=1e-12),
            "weight_decay": group["weight_decay"],
            "frozen_epochs": group["frozen_epochs"],
        }
        for group in published
    ]
    groups = parameter_groups(model_of(method), RECIPE)
    assert [{k: v for k, v in group.items() if k != "params"} for group in groups] == expected


def test_groups_hold_the_parameters_they_name():
    model = model_of("dpcknn")
    groups = parameter_groups(model, RECIPE)
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert parameter is model.get_parameter(name)
    assert sum(len(group["names"]) for group in groups) == len(list(model.parameters()))


def test_parameters_that_do_not_train_are_left_out():
    model = model_of("deit")
    model.pos_embed.requires_grad_(False)
    names = [name for group in parameter_groups(model, RECIPE) for name in group["names"]]
    assert "pos_embed" not in names


def test_the_token_of_a_distilled_host_is_treated_as_its_cls_token():
    host = VisionTransformerDistilled(embed_dim=48, num_heads=3, num_classes=10)
    groups = parameter_groups(reduction.reduce(host, "topk", keep_rate=0.7), RECIPE)
    (group,) = (group for group in groups if "dist_token" in group["names"])
    assert "cls_token" in group["names"]
    assert group["weight_decay"] == 0


def test_what_the_host_takes_out_does_not_decay():
    """Beit's class names its tables of relative positions, which have two dimensions."""
    host = timm.create_model("beit_base_patch16_224", embed_dim=48, depth=2, num_heads=3)
    model = reduction.reduce(host, "deit", reduction_loc=[1])
    undecayed = {n for g in parameter_groups(model, RECIPE) if not g["weight_decay"]
                 for n in g["names"]}  # fmt: skip
    tables = {n for n, _ in model.named_parameters() if "relative_position_bias_table" in n}
    assert tables
    assert tables <= undecayed
    assert {n for n, p in model.named_parameters() if p.ndim == 2} - tables - undecayed


def test_rates_of_a_step_are_set_in_every_group():
    optimizer = build_optimizer(model_of("deit"), RECIPE)
    highest = set_learning_rates(optimizer, 0, recipe=RECIPE, steps_per_epoch=10)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 1e-6, 1e-6, 0]
    assert highest == 1e-6


def test_adamw_steps_as_the_paper_defines():
    """One step of Loshchilov and Hutter's AdamW, by hand."""
    model = torch.nn.Linear(3, 2)
    recipe = Recipe(batch_size=512, accumulation=2)
    before = {name: p.detach().clone().double() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, recipe)
    assert optimizer.defaults["fused"]
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.double()
        decay = recipe.weight_decay if name == "weight" else 0
        expected = before[name] * (1 - 1e-3 * decay) - 1e-3 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=0, atol=1e-7)


def group_of(groups, name):
    (group,) = (group for group in groups if name in group["names"])
    return group


@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.weight", "cls_token"])
def test_embeddings_of_a_pretrained_host_train_and_rest_as_its_backbone(name):
    recipe = RECIPE.model_copy(update={"embeddings": "backbone"})
    group = group_of(parameter_groups(model_of("deit"), recipe), name)
    assert group["base_lr"] == pytest.approx(0.01 * 1e-3)
    assert group["frozen_epochs"] == 5
    new = recipe.model_copy(update={"pretrained": False})
    fresh = group_of(parameter_groups(model_of("deit"), new), "pos_embed")
    assert (fresh["base_lr"], fresh["frozen_epochs"]) == (pytest.approx(1e-3), 0)


def test_rates_fall_from_block_to_block_towards_the_embeddings():
    """As timm's own groups have them; the method's parameters and the head keep the full rate."""
    recipe = Recipe(layer_decay=0.75, backbone_lr_scale=0.5, batch_size=512, accumulation=2)
    model = model_of("dpcknn")
    groups = parameter_groups(model, recipe)
    plain = VisionTransformer(embed_dim=48, num_heads=3, num_classes=10)
    published = {
        id_of[parameter]: group["lr_scale"]
        for id_of in [{p: name for name, p in plain.named_parameters()}]
        for group in param_groups_layer_decay(plain, layer_decay=0.75)
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        new = name.startswith(("head", "stages."))
        expected = 1.0 if new else 0.5 * published[name]
        assert group_of(groups, name)["base_lr"] == pytest.approx(1e-3 * expected), name
        assert parameter.shape


def test_the_head_may_learn_faster():
    groups = parameter_groups(model_of("dpcknn"), Recipe(head_lr_scale=10, batch_size=1024,
                                                         accumulation=1))  # fmt: skip
    assert group_of(groups, "head.weight")["base_lr"] == pytest.approx(1e-2)
    assert group_of(groups, "stages.0.score.weight")["base_lr"] == pytest.approx(1e-3)
    assert group_of(groups, "blocks.0.mlp.fc1.weight")["base_lr"] == pytest.approx(1e-3)
