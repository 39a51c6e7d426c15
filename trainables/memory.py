"""Whether what went wrong is that memory ran out."""

import torch

SAID_OF_MEMORY = (
    "can't allocate memory",  # PyTorch's allocator of CPU memory
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of Python or PyTorch says that there was too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SAID_OF_MEMORY)
