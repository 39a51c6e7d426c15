"""Standard streams that fail nobody: what cannot be shown is dropped, and the work goes on.

A reader may go away (`| head`), a disk under a log fill up, a terminal close, a daemon start with
none of the three descriptors, and an encoding lack a character.
"""

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = 0, 1, 2
STALLED_SECONDS = 10.0
"""How long a reader that set its pipe to not wait may take to read on."""


def make_streams_steady() -> None:
    """Replace closed descriptors, and `sys.stdout` and `sys.stderr` unless somebody has already."""
    for descriptor in (STDIN, STDOUT, STDERR):
        _fill(descriptor)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _steady(STDOUT, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _steady(STDERR, sys.stderr)


def _fill(descriptor: int) -> None:
    """Open the null device where a descriptor is closed: the next file would get its number."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null == descriptor:
            os.set_inheritable(null, True)
        else:
            os.dup2(null, descriptor)
            os.close(null)


def _steady(descriptor: int, given: TextIO | None) -> TextIO:
    encoding = given.encoding if given else "utf-8"
    buffer = io.BufferedWriter(_SteadyOutput(descriptor))
    return io.TextIOWrapper(buffer, encoding=encoding, errors="replace", line_buffering=True)


class _SteadyOutput(io.RawIOBase):
    """Writes to a descriptor, or nowhere where that fails."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return self._written(data)
        except OSError:
            return memoryview(data).nbytes

    def _written(self, data: "ReadableBuffer") -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            select.select([], [self._descriptor], [], STALLED_SECONDS)
            return os.write(self._descriptor, data)
