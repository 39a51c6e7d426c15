"""Backbones that rest: nothing of them moves, and adapters end as plain weights."""

import copy

import pytest
import timm
import torch

import reduction
from trainables.loop.adapters import ADAPTER, plain, rest_backbone
from trainables.models.host import build_model
from trainables.recipe import Recipe

QUICK = {
    "pretrained": True,
    "epochs": 1,
    "warmup_epochs": 0,
    "lr": 1e-2,
    "lr_reference_batch": 40,
    "batch_size": 40,
    "accumulation": 1,
    "drop_path": 0.0,
}
LORA = Recipe(backbone="lora", lora_rank=2, lora_alpha=6.0)
NEW = ("head", "stages.")


def trained(finetune, cell):
    finetuning = finetune(cell)
    while not finetuning.finished:
        report = finetuning.run(lambda: False)
    return finetuning, report


@pytest.mark.parametrize("method", ["deit", "dpcknn"])
def test_of_a_frozen_host_only_the_head_and_the_method_move(make_cell, finetune, method):
    cell = make_cell(method, keep_rate=0.5 if method != "deit" else 1.0, backbone="frozen", **QUICK)
    before = build_model(cell, 10).state_dict()
    finetuning, report = trained(finetune, cell)
    after = finetuning.state_dict()["model"]
    moved = {name for name, x in after.items() if not torch.equal(x, before[name])}
    assert moved == {name for name in before if name.startswith(NEW)}
    assert report.moved["embeddings"] == report.moved["backbone"] == 0 < report.moved["head"]
    held = [p for group in finetuning.state_dict()["moments"].values() for p in group.values()]
    assert sum(x.numel() for x in held if x.ndim) == 2 * sum(before[n].numel() for n in moved)


def test_adapters_are_saved_as_plain_weights(make_cell, finetune):
    """By the definition: the weights and alpha / rank times the product of the two factors."""
    cell = make_cell(backbone="lora", lora_rank=4, lora_alpha=6.0, ema_decay=None, **QUICK)
    start = build_model(cell, 10).state_dict()
    finetuning, report = trained(finetune, cell)
    state, (best, _) = finetuning.state_dict()["model"], finetuning.best
    build_model(cell, 10).load_state_dict(best)
    adapted = set()
    for name in start.keys() - {"head.weight", "head.bias"}:
        place = name.removesuffix(".weight")
        factors = [state.get(f"{place}.lora_{x}.{ADAPTER}.weight") for x in "BA"]
        if factors[0] is None:
            assert torch.equal(best[name], start[name]), name
            continue
        adapted.add(place.split(".", 2)[2])
        assert torch.equal(state[f"{place}.base_layer.weight"], start[name])
        expected = start[name].double() + 6 / 4 * (factors[0].double() @ factors[1].double())
        torch.testing.assert_close(best[name].double(), expected, rtol=0, atol=1e-6)
        assert not torch.equal(best[name], start[name])
    assert adapted == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert report.moved["embeddings"] == 0 < report.moved["backbone"]


def test_an_evaluation_leaves_adapters_as_they_were(make_cell, finetune):
    finetuning, _ = trained(finetune, make_cell(backbone="lora", **QUICK))
    before, model = copy.deepcopy(finetuning.state_dict()), finetuning.model
    with plain([model]):
        assert not [name for name in model.state_dict() if "lora" in name or "base" in name]
    finetuning.evaluate()
    after = finetuning.state_dict()
    assert after["model"].keys() == before["model"].keys()
    assert all(torch.equal(x, before["model"][name]) for name, x in after["model"].items())


def with_random_adapters(model, recipe=LORA):
    rest_backbone(model, recipe, seed=3)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if f"lora_B.{ADAPTER}" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.mark.parametrize("method", ["deit", "topk", "ats", "tome", "dpcknn", "cropr", "idlevit"])
def test_no_method_passes_adapters_by(small_host, method):
    """A block that a stage looks into computes its projections with the adapters, too."""
    options = {"keep_rate": 0.5} if method != "deit" else {}
    model = reduction.reduce(copy.deepcopy(small_host), method, reduction_loc=[1], **options)
    images = torch.randn(2, 3, 32, 32)
    before = model.eval()(images)
    adapted = with_random_adapters(model)(images)
    with plain([model]):
        torch.testing.assert_close(model(images), adapted, rtol=1e-4, atol=1e-5)
    assert (adapted - before).abs().max() > 1e-2


def test_layers_whose_weights_are_read_have_no_adapter():
    """EVA-02's fused projection is no layer that is called."""
    arguments = {"img_size": 28, "patch_size": 14, "embed_dim": 24, "depth": 2, "num_heads": 2}
    host = timm.create_model("eva02_tiny_patch14_224", num_classes=5, qkv_fused=True, **arguments)
    model = with_random_adapters(reduction.reduce(host, "topk", keep_rate=0.5, reduction_loc=[1],
                                                  score="received"))  # fmt: skip
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert not any("qkv" in name for name in adapted)
    assert {name.split(".")[2] for name in adapted} == {"attn", "mlp"}
    images = torch.randn(2, 3, 28, 28)
    expected = model(images)
    with plain([model]):
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_adapters_start_from_the_seed(small_host):
    def first(seed):
        model = reduction.reduce(copy.deepcopy(small_host), "deit", reduction_loc=[1])
        torch.rand(seed)  # whatever was drawn before
        rest_backbone(model, LORA, seed=seed)
        return {n: p.detach() for n, p in model.named_parameters() if "lora_A" in n}

    a, again, other = first(1), first(1), first(2)
    assert all(torch.equal(x, again[name]) for name, x in a.items())
    assert not any(torch.equal(x, other[name]) for name, x in a.items())


def test_without_the_package_there_is_one_line(small_host, monkeypatch):
    monkeypatch.setattr("trainables.loop.adapters.find_spec", lambda name: None)
    model = reduction.reduce(copy.deepcopy(small_host), "deit", reduction_loc=[1])
    with pytest.raises(ValueError, match=r"^backbone is 'lora', which needs .* pip install .*$"):
        rest_backbone(model, LORA, seed=0)
