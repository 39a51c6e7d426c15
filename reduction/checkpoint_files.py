"""Reading checkpoint files without running code that they may hold."""

import argparse
import pickle
import re
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.serialization import get_safe_globals, safe_globals

_PATHS = {
    "PosixPath": PurePosixPath,
    "PurePosixPath": PurePosixPath,
    "WindowsPath": PureWindowsPath,
    "PureWindowsPath": PureWindowsPath,
}
_NUMPY_SCALAR = np.float64().__reduce__()[0]
_NUMPY_TYPES = {type(np.dtype(c)) for c in f"?{np.typecodes['AllInteger']}{np.typecodes['Float']}"}

_DATA: list[Any] = [
    argparse.Namespace,
    *((kind, f"pathlib.{name}") for name, kind in _PATHS.items()),
    *((kind, f"pathlib._local.{name}") for name, kind in _PATHS.items()),
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *_NUMPY_TYPES,
]
"""What training scripts save next to tensors, and reading it does nothing else."""


def read_checkpoint_file(path: Path, *, allow_code: bool) -> Any:
    """Return what a file by `torch.save` (zip or legacy format) or safetensors holds, on the CPU.

    Args:
        path: The file; its first bytes tell the format, whatever its name is.
        allow_code: Also run code that a pickle holds, for files whose origin is trusted.

    Raises:
        ValueError: No such file, one that is damaged or no checkpoint, or one that holds code.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint is {str(path)!r}, but must be an existing file")
    # The context would also take away what the user had allowed before.
    data = [item for item in _DATA if item not in get_safe_globals()]
    try:
        if _is_safetensors(path):
            return load_file(path)
        _check_sums(path)
        with safe_globals(data):
            return torch.load(path, map_location="cpu", weights_only=not allow_code)
    except Exception as error:  # a damaged file can fail anywhere in the parsers
        raise ValueError(f"{path} {_reason(error)}") from error


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts as safetensors do: the length of a JSON object, then the object."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length <= path.stat().st_size - 8


def _check_sums(path: Path) -> None:
    """Raise `BadZipFile` where the data of a zip file are not what was written; torch would not.

    With `torch.utils.serialization.config.save.compute_crc32` off, torch writes 0 for every sum.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            summed = any(member.CRC for member in archive.infolist())
            damaged = archive.testzip() if summed else None
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def _reason(error: Exception) -> str:
    """Return what is wrong with a file that raised `error`."""
    message = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    code = re.search(r"GLOBAL ([\w.]*\w)", message)
    if isinstance(error, pickle.UnpicklingError) and code is not None:
        return (
            f"asks for {code[1]}, but must hold data alone; allow_code=True runs what it asks for, "
            "if you trust where the file is from"
        )
    detail = message.splitlines()[0] if message else ""
    return f"is no readable checkpoint ({type(error).__name__}: {detail})"
