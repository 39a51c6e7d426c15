"""Decide whether a process that has trained a cell may train another one."""

import gc
import sys

SECONDS_ON_A_GPU = 300.0
"""How long a process with a GPU takes further cells. Starting one costs only seconds, but
evaluations wait for a share of a GPU, which only a process that ends gives back."""
LITTLE_MEMORY = 256 * 2**20
"""Bytes of a GPU that may be in use after a cell is closed, because cuBLAS keeps a workspace."""


def is_spent(gpu: float, seconds: float) -> bool:
    """Free the GPU memory that PyTorch caches; return whether the process has to end all the same.

    Args:
        gpu: Share of a GPU that the process has reserved.
        seconds: Age of the process.
    """
    return bool(gpu) and (memory_in_use() > LITTLE_MEMORY or seconds > SECONDS_ON_A_GPU)


def memory_in_use() -> int:
    """Return the bytes of the GPU that tensors hold, after all that is unused is freed."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    gc.collect()  # Models are in reference cycles.
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated())
