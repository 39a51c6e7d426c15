"""Token reduction as surgery on timm ViTs.

`reduce` a model you have or `create_model` one by name, `load_checkpoint` into it, and look at
`METHODS` for what there is; `register` adds methods of your own. `register_timm_models` makes
`timm.create_model` know all methods.
Importing this package, and asking for the names of the methods, does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reduction.methods import METHODS, MethodInfo, has_fixed_budget, register

if TYPE_CHECKING:
    from reduction.checkpoints import CheckpointInfo, load_checkpoint
    from reduction.cost import Cost, flops
    from reduction.dense import unmerge
    from reduction.installing import set_schedule
    from reduction.surgery import create_model, reduce, unreduce
    from reduction.timing import Speed, speed
    from reduction.timm_models import register_timm_models
    from reduction.token_pictures import draw
    from reduction.trace import ReductionTrace

__all__ = [
    "METHODS",
    "CheckpointInfo",
    "Cost",
    "MethodInfo",
    "ReductionTrace",
    "Speed",
    "create_model",
    "draw",
    "flops",
    "has_fixed_budget",
    "load_checkpoint",
    "reduce",
    "register",
    "register_timm_models",
    "set_schedule",
    "speed",
    "unmerge",
    "unreduce",
]

_MODULES = {
    "CheckpointInfo": "checkpoints",
    "Cost": "cost",
    "ReductionTrace": "trace",
    "Speed": "timing",
    "create_model": "surgery",
    "draw": "token_pictures",
    "flops": "cost",
    "load_checkpoint": "checkpoints",
    "reduce": "surgery",
    "register_timm_models": "timm_models",
    "set_schedule": "installing",
    "speed": "timing",
    "unmerge": "dense",
    "unreduce": "surgery",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
