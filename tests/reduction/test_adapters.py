"""Reduced models with the adapters of peft."""

import pytest
import timm
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

import reduction

HOSTS = {
    "vit_tiny_patch16_224": {"img_size": 64},
    "vit_small_patch16_dinov3": {"img_size": 64, "embed_dim": 96, "num_heads": 3},
}


def make(name, method):
    torch.manual_seed(0)
    vit = timm.create_model(name, **HOSTS[name], depth=4, num_classes=10)
    return reduction.reduce(vit, method, keep_rate=0.6, reduction_loc=(1, 2))


@pytest.mark.parametrize("method", ["tome", "kmedoids"])
@pytest.mark.parametrize("name", HOSTS)
def test_adapters_train_and_merge_into_the_weights(name, method):
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = make(name, method)
    names = list(model.state_dict())
    before = model.eval()(images)
    lora = LoraConfig(r=4, target_modules=["qkv", "proj", "fc1"], modules_to_save=["head"])
    adapted = get_peft_model(model, lora)
    torch.testing.assert_close(adapted(images), before)
    learning = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1.0)
    adapted.train()
    for _ in range(2):
        cross_entropy(adapted(images), torch.arange(4)).backward()
        assert all(p.grad.abs().sum() > 0 for n, p in adapted.named_parameters() if "lora_B" in n)
        optimizer.step()
        optimizer.zero_grad()
    expected = adapted.eval()(images)
    assert (expected - before).abs().max() > 0.01
    merged = adapted.merge_and_unload()
    assert list(merged.state_dict()) == names
    fresh = make(name, method).eval()
    fresh.load_state_dict(merged.state_dict())
    torch.testing.assert_close(fresh(images), expected, atol=1e-4, rtol=1e-4)
