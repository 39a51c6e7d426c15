"""Files that readers see whole or not at all, and whose damage shows.

Writes are retried inside `trainables.storage.retry.patience`. The paths themselves retry reads.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

from trainables.storage.paths import Content, ObjectPath, StorePath
from trainables.storage.retry import retrying


class DamagedFileError(Exception):
    """A file that cannot be trusted; the message names it and says why."""

    def __init__(self, path: StorePath, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["DamagedFileError"], tuple[StorePath, str]]:
        return DamagedFileError, (
            self.path,
            self.reason,
        )  # Other processes send it.


JsonRecord = dict[str, Any]
"""The fields of a JSON file, as it was read: nothing but its seal has been checked."""
Stamp = list[int]
"""Size in bytes, time of change in nanoseconds and inode of a file."""

Check = Callable[[StorePath, str], object]
"""Raises DamagedFileError unless a file is whole, given the SHA-256 that it must have."""


def digest(data: Content) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_atomic(path: StorePath, data: Content) -> None:
    """Write `data` so that others see either the old content or all of the new.

    In a folder the data go to a temporary file, which is flushed to the disk and renamed. An
    object store publishes an upload once it is complete.
    """
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
    else:
        retrying(lambda: _write_aside(cast(Path, path), data), path)


def share_file(source: StorePath, target: StorePath) -> None:
    """Make `target` a hard link to `source`, or a copy where links are not possible.

    Later writes to one do not change the other, because `write_atomic` replaces files.
    """
    if not (isinstance(source, Path) and isinstance(target, Path) and _linked(source, target)):
        write_atomic(target, source.read_bytes())


def append_line(path: StorePath, line: str) -> None:
    """Append one line.

    In a folder this is a single write, so lines of several writers never interleave. An object
    store cannot append: the file is rewritten, and may have only one writer at a time.
    """
    data = f"{line}\n".encode()
    if isinstance(path, ObjectPath):
        path.write_bytes((path.read_bytes() if path.is_file() else b"") + data)
    else:
        retrying(lambda: _append(cast(Path, path), data), path)


def remove_tree(path: StorePath) -> None:
    """Remove a folder and everything in it, if it exists; links are not followed."""
    if isinstance(path, ObjectPath):
        path.remove_tree()
    else:
        with suppress(FileNotFoundError):
            retrying(lambda: shutil.rmtree(cast(Path, path)), path)


def write_sealed_json(path: StorePath, payload: Mapping[str, object]) -> None:
    """Write `payload` as indented JSON with a `seal` over its content."""
    sealed = {**payload, "seal": _seal(payload)}
    write_atomic(path, (json.dumps(sealed, indent=1) + "\n").encode())


def read_sealed_json(path: StorePath) -> JsonRecord | None:
    """Return what `write_sealed_json` wrote, None if there is no file.

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


def read_checked(path: StorePath, expected_digest: str) -> bytes:
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


def stamp(path: StorePath) -> Stamp:
    """Return the stamp of a file, which changes when somebody writes to it.

    Raises:
        FileNotFoundError: It is missing.
    """
    if isinstance(path, ObjectPath):
        return [*path.size_and_time(), 0]
    status = retrying(cast(Path, path).stat, path)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _seal(payload: Any) -> str:
    return digest(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode())


def _write_aside(path: Path, data: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _linked(source: Path, target: Path) -> bool:
    """Replace `target` by a hard link; return whether the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    try:
        os.link(source, aside)
    except OSError:
        return False
    aside.replace(target)
    aside.unlink(missing_ok=True)  # It is still there if both were the same file already.
    _flush_folder(target.parent)
    return True


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{token_hex(4)}.tmp")


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(data)


def _flush_folder(folder: Path) -> None:
    # Without this a rename can be lost with the power although the file's content is safe.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
