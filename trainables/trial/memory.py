"""Whether what went wrong is that memory ran out."""

import torch

SAID_OF_MEMORY = (
    "can't allocate memory",  # PyTorch's allocator of CPU memory
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)
"""What PyTorch raises as a plain RuntimeError, instead of `torch.OutOfMemoryError`.

https://github.com/pytorch/pytorch/blob/v2.6.0/c10/core/impl/alloc_cpu.cpp
https://github.com/pytorch/pytorch/blob/v2.6.0/aten/src/ATen/cuda/Exceptions.cpp
https://github.com/pytorch/pytorch/blob/v2.6.0/c10/cuda/CUDAException.cpp
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python or PyTorch reports that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SAID_OF_MEMORY)
