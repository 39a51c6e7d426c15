"""Every method on DeiT hosts of three sizes, as models that timm knows by name."""

from collections.abc import Callable
from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model

from reduction.methods import METHODS
from reduction.model import ReducedVisionTransformer
from reduction.surgery import create_model

__all__ = ["register_timm_models"]  # timm adds the models when they are registered

_HOSTS = {size: f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")}
_MODELS = {
    f"{method}_{size}_patch16_224": (method, host)
    for method in METHODS
    for size, host in _HOSTS.items()
    if method != "deit"  # whose names are the hosts' own
}

_PRETRAINED = {host: timm.get_pretrained_cfg(host) for host in _HOSTS.values()}

default_cfgs = generate_default_cfgs(
    {f"{name}.{_PRETRAINED[host].tag}": _PRETRAINED[host] for name, (_, host) in _MODELS.items()}
)
"""The hosts' pretrained weights and input sizes, under the name that timm's registry looks for."""


def register_timm_models() -> tuple[str, ...]:
    """Make timm know every method as `{method}_{tiny|small|base}_patch16_224`.

    From then on `timm.create_model("topk_small_patch16_224", pretrained=True, keep_rate=0.7,
    reduction_loc=(3, 6, 9))` is `reduction.create_model` on the DeiT host of that size, and
    `timm.list_models("topk_*")` lists it. The baseline `deit` is timm's own model. Calling this
    again changes nothing; importing `reduction` alone registers nothing.

    Returns:
        The names.

    Raises:
        ValueError: timm knows another model by one of the names; nothing is registered then.
    """
    taken = {name: timm.model_entrypoint(name) for name in _MODELS if timm.is_model(name)}
    for name, entry_point in taken.items():
        if entry_point.__module__ != __name__:
            raise ValueError(
                f"timm's model {name} is from {entry_point.__module__}, "
                "but must not exist before the reduced ones are registered"
            )
    for name, (method, host) in _MODELS.items():
        if name not in taken:
            globals()[name] = register_model(_entry_point(name, method, host))
    return tuple(_MODELS)


def _entry_point(name: str, method: str, host: str) -> Callable[..., ReducedVisionTransformer]:
    def create(
        pretrained: bool = False,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ReducedVisionTransformer:
        # What timm saves with a model must name this one, not the host.
        overlay = {"architecture": name} | (pretrained_cfg_overlay or {})
        return create_model(
            method, host, pretrained=pretrained, pretrained_cfg_overlay=overlay, **kwargs
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Create `{host}` reduced by {method}; see `reduction.create_model`."
    return create
