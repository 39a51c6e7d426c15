"""Arrays that grow in files, so that memory holds no more of them than a batch or two."""

from collections.abc import Mapping
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import IO, Self

import numpy as np
import torch
from torch import Tensor


class SpooledArrays:
    """Arrays by name, of which batches of rows leave their device and memory as they come.

    A context manager: the files, which have no names, are closed at its end, and gone once nobody
    looks at the arrays any more.

    A batch is written when the next one has been added: until then a GPU has something to do, so
    that nobody waits for its copy.
    """

    def __init__(self) -> None:
        self._files = ExitStack()
        self._arrays: dict[str, _GrowingArray] = {}
        self._leaving: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Add rows to every array, each [B, ...]; names, types and widths are always the same."""
        leaving = {name: rows.to("cpu", non_blocking=True) for name, rows in batch.items()}
        copied = torch.cuda.Event() if any(rows.is_cuda for rows in batch.values()) else None
        if copied is not None:
            copied.record()
        self._write()
        self._leaving, self._copied = leaving, copied

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what was added; it is read from the files as it is looked at."""
        self._write()
        return {name: array.mapped() for name, array in self._arrays.items()}

    def _write(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()
        for name, rows in self._leaving.items():
            if name not in self._arrays:
                file = self._files.enter_context(TemporaryFile())  # noqa: SIM115 - It does close.
                self._arrays[name] = _GrowingArray(file)
            self._arrays[name].append(rows.numpy())
        self._leaving = {}


class _GrowingArray:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rows = 0

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows += len(rows)
        self._dtype, self._shape = rows.dtype, rows.shape[1:]

    def mapped(self) -> np.ndarray:
        self._file.flush()
        shape = (self._rows, *self._shape)
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=shape)
