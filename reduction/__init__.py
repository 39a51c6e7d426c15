"""Token reduction as surgery on any timm `VisionTransformer`.

`reduce` a model you have or `create_model` one by name, and look at `METHODS` for what there is.
Importing this package, and asking for the names of the methods, does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reduction.methods import METHODS, MethodInfo

if TYPE_CHECKING:
    from reduction.cost import Cost, flops
    from reduction.surgery import create_model, reduce, unreduce
    from reduction.trace import ReductionTrace

__all__ = [
    "METHODS",
    "Cost",
    "MethodInfo",
    "ReductionTrace",
    "create_model",
    "flops",
    "reduce",
    "unreduce",
]

_MODULES = {
    "Cost": "cost",
    "ReductionTrace": "trace",
    "create_model": "surgery",
    "flops": "cost",
    "reduce": "surgery",
    "unreduce": "surgery",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
