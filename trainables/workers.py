"""The processes that train one cell together, one to a GPU, and how they agree. Knows no Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up: longer than any batch takes to load."""


@dataclass(frozen=True)
class Workers:
    """This process among those that train a cell together.

    All ranks call the same methods in the same order; each call waits for the others.
    """

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """How many there are; 1 needs no process group."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which speaks and writes for all."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> Sequence[float]:
        """Return the sum of the ranks' values for each of them, the same on all ranks."""
        if self.size == 1:
            return values
        totals = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(totals)
        return totals.tolist()

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on some rank."""
        return self.sum([float(flag)])[0] > 0

    def gathered(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values

    def from_first(self, compute: Callable[[], T]) -> T:
        """Return what `compute` gives on rank 0, which alone runs it."""
        if self.size == 1:
            return compute()
        values = [compute() if self.first else None]
        distributed.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def interleaved(self, stride: Tensor, total: int) -> Tensor:
        """Put together, on rank 0, the strides of `total` rows that the ranks have.

        Args:
            stride: [K, ...] on the CPU: rows rank, rank + size, ... with K the same on all ranks.
            total: Rows there are; what lies beyond is left out.

        Returns:
            The rows in order, [total, ...], on rank 0; the stride itself on the others.
        """
        if self.size == 1:
            return stride
        strides = [torch.empty_like(stride) for _ in range(self.size)] if self.first else None
        distributed.gather(stride, strides)
        return stride if strides is None else torch.stack(strides, 1).flatten(0, 1)[:total]

    def parallel(self, module: nn.Module, *, unused_parameters: bool) -> nn.Module:
        """Return the module with gradients averaged over the ranks in the backward pass.

        Args:
            module: Its forward pass must have all that needs gradients.
            unused_parameters: Whether some passes leave parameters without gradients.
        """
        if self.size == 1:
            return module
        return DistributedDataParallel(
            module,
            find_unused_parameters=unused_parameters,
            # They are constants; and a rank whose pass fails would lose count of the broadcasts.
            broadcast_buffers=False,
        )


ALONE = Workers()
"""One process trains the cell."""


def accumulating(module: nn.Module) -> AbstractContextManager[None]:
    """Return the context in which gradients only add up, to be averaged by a later pass."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


@contextmanager
def joined(
    store: distributed.Store, rank: int, size: int, device: torch.device
) -> Iterator[Workers]:
    """Join the ranks that meet at `store` for the duration of the context."""
    distributed.init_process_group(
        # What ranks tell each other lies on the CPU; gradients lie on the device.
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    try:
        yield Workers(rank, size)
    finally:
        distributed.destroy_process_group()
