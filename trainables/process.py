"""Whether a process that has trained a cell may go on with another one."""

import gc
import sys

SECONDS_ON_A_GPU = 300.0
"""How long a process with a GPU takes on further cells. To start one takes seconds, which is little
beside that; but evaluations wait for a share of a GPU, which only a process that ends sets free."""
LITTLE_MEMORY = 256 * 2**20
"""Bytes of a GPU that may be in use once a cell is closed: cuBLAS keeps some for its work."""


def is_spent(gpu: float, seconds: float) -> bool:
    """Empty what PyTorch keeps of a GPU's memory; tell whether the process has to end nevertheless.

    Args:
        gpu: Share of a GPU that the process has reserved.
        seconds: How long ago it began.
    """
    return bool(gpu) and (memory_in_use() > LITTLE_MEMORY or seconds > SECONDS_ON_A_GPU)


def memory_in_use() -> int:
    """Return the bytes of the GPU that tensors still hold, once all that is not needed is free."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    gc.collect()  # Models are in cycles.
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated())
