"""What trains of a host whose backbone rests: the head and the method, or low-rank adapters."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from reduction.model import ReducedVisionTransformer
from trainables.loop.optimizer import NEW_PARTS
from trainables.recipe import Recipe

WITHOUT_PEFT = (
    "backbone is 'lora', which needs the package peft, but it is not installed: "
    "pip install 'tokensweep[lora]'"
)
ADAPTER = "lora"
"""Name that peft gives to the adapters of all layers."""


def has_peft() -> bool:
    """Tell whether adapters can be made."""
    return find_spec("peft") is not None


def rest_backbone(model: ReducedVisionTransformer, recipe: Recipe, seed: int) -> None:
    """Freeze the backbone and its embeddings, and put in adapters, as the recipe says.

    Args:
        model: As the cell starts; left as it is where its whole backbone trains.
        recipe: Has the kind of training and the size of adapters.
        seed: Adapters start from it.

    Raises:
        ValueError: There are no adapters without the package peft.
    """
    if recipe.backbone == "full":
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(NEW_PARTS))
    if recipe.backbone == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _adapt(model, recipe)


def _adapt(model: ReducedVisionTransformer, recipe: Recipe) -> None:
    if not has_peft():
        raise ValueError(WITHOUT_PEFT)
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules=_called_layers(model),
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for parameter in trained:  # peft freezes all that is no adapter.
        parameter.requires_grad_(True)


@torch.no_grad()
def _called_layers(model: ReducedVisionTransformer) -> list[str]:
    """Return the linear layers of the blocks that a pass calls.

    Some kinds of attention read the weights of a layer instead, and would pass an adapter by.
    """
    called: list[str] = []
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if name.startswith("blocks.") and type(module) is nn.Linear
    ]
    weight, training = next(model.parameters()), model.training
    with ExitStack() as hooks:
        for name, layer in layers:
            handle = layer.register_forward_hook(lambda *_, name=name: called.append(name))
            hooks.callback(handle.remove)
        model.eval()(weight.new_zeros(1, 3, *model.patch_embed.img_size))
    model.train(training)
    return called


@contextmanager
def plain(models: Sequence[nn.Module]) -> Iterator[None]:
    """Let models have the layers and weights that they have without adapters, these merged in.

    Afterwards they are as they were, to the last bit.

    Args:
        models: With or without adapters.
    """
    with ExitStack() as undo:
        for model in models:
            for name, layer in _adapted(model):
                base = layer.base_layer
                undo.callback(setattr, base.weight, "data", base.weight.data)
                undo.callback(model.set_submodule, name, layer)
                base.weight.data = base.weight.data + layer.get_delta_weight(ADAPTER)
                model.set_submodule(name, base)
        yield


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    return [(n, m) for n, m in model.named_modules() if hasattr(m, "lora_A")]
