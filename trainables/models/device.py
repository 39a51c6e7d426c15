"""Which device a process computes on."""

import os
from contextlib import AbstractContextManager

import torch

from trainables.recipe import Recipe

DEVICE = "TOKENSWEEP_DEVICE"
"""Environment variable: `cpu` computes there although Ray reserves GPUs.

That tries out how a study would be scheduled, on a cluster that only says it has GPUs.
"""


def device_for(gpu: float) -> torch.device:
    """Return the device of a process that has reserved `gpu` GPUs, or a share of one."""
    return torch.device(os.environ.get(DEVICE, "cuda") if gpu else "cpu")


def autocast_dtype(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the type that matrix products run in, or None for float32 throughout."""
    dtype = precision_dtype(recipe.precision, device)
    return None if dtype is torch.float32 else dtype


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type that a recipe's `precision` stands for.

    `auto` is bfloat16 on a GPU that has it, float16 on another, and float32 on a CPU.
    """
    if precision == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return types.get(precision, torch.float32)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Return the context in which a model runs."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
