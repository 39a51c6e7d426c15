"""Mixed precision: which type a recipe means on a device."""

from contextlib import AbstractContextManager

import torch

from trainables.recipe import Recipe


def autocast_dtype(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the type that matrix products run in, or None for float32 throughout.

    `auto` is bfloat16 on a GPU that has it, float16 on another, and float32 on a CPU.
    """
    if recipe.precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[recipe.precision]


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Return the context in which a model runs."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
