"""Files that readers see whole or not at all, and that tell when they are damaged."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class DamagedFileError(Exception):
    """A file that exists but cannot be trusted; the message names it and says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["DamagedFileError"], tuple[Path, str]]:
        return DamagedFileError, (self.path, self.reason)  # It comes back from other processes.


Stamp = list[int]
"""What changes with a file: its size in bytes, time of change in nanoseconds and inode."""

Check = Callable[[Path, str], object]
"""Raises DamagedFileError unless a file is whole, given the SHA-256 that it must have."""


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` aside, flush it to the disk and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _flush_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append one line in one write, so that lines of several writers never interleave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


def write_sealed_json(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` as indented JSON with a `seal` over its content."""
    sealed = payload | {"seal": _seal(payload)}
    write_atomic(path, (json.dumps(sealed, indent=1) + "\n").encode())


def read_sealed_json(path: Path) -> dict[str, Any] | None:
    """Return what `write_sealed_json` wrote, None where there is no file.

    Raises:
        DamagedFileError: The file is torn, or its content does not match its seal.
    """
    try:
        payload = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFileError(path, "it is not valid JSON") from error
    if not isinstance(payload, dict) or payload.pop("seal", None) != _seal(payload):
        raise DamagedFileError(path, "its content does not match its seal")
    return payload


def read_checked(path: Path, expected_digest: str) -> bytes:
    """Return the bytes of `path`.

    Raises:
        DamagedFileError: The file is missing or its SHA-256 is not `expected_digest`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedFileError(path, "it is missing") from error
    if digest(data) != expected_digest:
        raise DamagedFileError(path, "its content does not match its recorded SHA-256")
    return data


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file, the same as long as nobody has written to it.

    Raises:
        FileNotFoundError: It is missing.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _seal(payload: Any) -> str:
    return digest(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode())


def _flush_folder(folder: Path) -> None:
    # Without this a rename can be lost with the power although the file's content is safe.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
