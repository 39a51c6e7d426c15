"""The path of a store: a folder of a file system, or a prefix of an object store.

Both kinds of path offer the part of `pathlib.Path` that `StorePath` lists. Functions that write
and remove are in `trainables.storage.files`.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from mmap import mmap
from pathlib import PurePosixPath
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from trainables.storage.folder_path import FolderPath
from trainables.storage.retry import retrying

T = TypeVar("T")
Content = bytes | mmap
"""A file's bytes: in memory, or mapped from another file."""

IN_ONE_REQUEST = {"s3": "?allow_delayed_open=true"}
"""Addition to each scheme's URI that makes a small file one request instead of three."""
SMALL_BYTES = 5 * 2**20
"""Smallest part that S3 takes, hence the smallest file that is written in parts."""


class StorePath(Protocol):
    """The operations on a path of the store, of either kind, as `pathlib.Path` has them."""

    @property
    def name(self) -> str:
        """Last part."""

    @property
    def stem(self) -> str:
        """The name without its last suffix."""

    @property
    def parent(self) -> Self:
        """The folder that contains it."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The root, then every name on the way."""

    def __truediv__(self, name: str, /) -> Self: ...
    def __lt__(self, other: Self, /) -> bool: ...
    def __hash__(self) -> int: ...
    def with_name(self, name: str, /) -> Self:
        """Return the path of another name in the same folder."""

    def absolute(self) -> Self:
        """Return the path independent of the working folder."""

    def exists(self) -> bool:
        """Return whether the file or folder exists."""

    def is_file(self) -> bool:
        """Return whether the file exists."""

    def is_dir(self) -> bool:
        """Return whether the folder exists."""

    def glob(self, pattern: str, /) -> Iterator[Self]:
        """Yield what matches a pattern with `*` in some of its parts, in no order."""

    def read_bytes(self) -> bytes:
        """Return the file's content."""

    def read_text(self, *, errors: str | None = None) -> str:
        """Return the file's content, which is UTF-8."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A file or folder of an object store, such as `s3://bucket/prefix/name`.

    Only the URI is pickled: each process opens the store with the endpoint and credentials of its
    own environment, so that credentials are neither sent nor stored.

    Args:
        uri: Scheme, bucket and key, without percent-encoding.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> Self:
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise ValueError(f"{name!r} leads out of {self}")
        return type(self)(f"{self.uri.rstrip('/')}/{name}")

    @property
    def _root(self) -> str:
        """Scheme and bucket."""
        scheme, _, place = self.uri.partition("://")
        return f"{scheme}://{place.partition('/')[0]}"

    @property
    def _key(self) -> str:
        """The part after the bucket, without slashes around it."""
        return self.uri.removeprefix(self._root).strip("/")

    def _ask(self, request: Callable[[FileSystem, str], T]) -> T:
        """Send a request, given the file system and the path in it; return the answer."""
        return retrying(lambda: self._ask_once(request), self)

    def _ask_once(self, request: Callable[[FileSystem, str], T], options: str = "") -> T:
        filesystem, bucket = _opened(self._root, options)
        return request(filesystem, f"{bucket}/{self._key}" if self._key else bucket)

    @property
    def name(self) -> str:
        """Last part of the key, empty for a bucket."""
        return self._key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> Self:
        """The folder that contains it; a bucket contains itself."""
        return type(self)(self.uri.rpartition("/")[0]) if self.name else self

    @property
    def parts(self) -> tuple[str, ...]:
        """Scheme with bucket, then the parts of the key."""
        return (self._root, *filter(None, self._key.split("/")))

    def with_name(self, name: str) -> Self:
        """Return the path of another name in the same folder."""
        return self.parent / name

    def absolute(self) -> Self:
        """Return the path itself, which does not depend on the working folder."""
        return self

    def exists(self) -> bool:
        """Return whether there is such a file, or a folder with files."""
        return self._type() != FileType.NotFound

    def is_file(self) -> bool:
        """Return whether the file exists."""
        return self._type() == FileType.File

    def is_dir(self) -> bool:
        """Return whether there are files below."""
        return self._type() == FileType.Directory

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yield what matches a pattern with `*` in some of its parts, in no order."""
        parts = pattern.split("/")
        fixed = next((i for i, part in enumerate(parts) if "*" in part), len(parts) - 1)
        base, wanted = self, parts[fixed:]
        for part in parts[:fixed]:
            base = base / part
        for name, _ in base._below(recursive=len(wanted) > 1):
            found = name.split("/")
            if len(found) == len(wanted) and all(map(fnmatchcase, found, wanted)):
                yield base / name

    def read_bytes(self) -> bytes:
        """Return the file's content.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return self._ask(_read)

    def read_text(self, *, errors: str | None = None) -> str:
        """Return the file's content, which is UTF-8."""
        return self.read_bytes().decode(errors=errors or "strict")

    def write_bytes(self, data: Content) -> int:
        """Replace the file; others see the old content until the upload is complete."""
        # Larger files open the upload first: with delayed opening, a stream that could not be
        # opened would publish an empty file when it is closed.
        small = IN_ONE_REQUEST.get(self.uri.partition("://")[0], "")
        options = small if len(data) < SMALL_BYTES else ""
        return retrying(lambda: self._ask_once(partial(_write, data), options), self)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self._ask(FileSystem.delete_file)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove all files below."""
        with suppress(FileNotFoundError):
            self._ask(FileSystem.delete_dir)

    def size_and_time(self) -> tuple[int, int]:
        """Return the file's size in bytes and its time of change in nanoseconds.

        Raises:
            FileNotFoundError: There is no such file.
        """
        info = self._ask(FileSystem.get_file_info)
        if info.type != FileType.File:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return info.size, info.mtime_ns

    def listing(self) -> Iterator[tuple[str, int, float]]:
        """Yield the relative path, size in bytes and time of change of every file below.

        Times are in seconds since the epoch.
        """
        for name, info in self._below(recursive=True):
            if info.type == FileType.File:
                yield name, info.size, (info.mtime_ns or 0) / 1e9

    def _type(self) -> Any:
        return self._ask(FileSystem.get_file_info).type

    def _below(self, *, recursive: bool) -> list[tuple[str, FileInfo]]:
        """Return what is below, each with its relative path."""

        def listed(filesystem: FileSystem, place: str) -> list[tuple[str, FileInfo]]:
            selector = FileSelector(place, recursive=recursive, allow_not_found=True)
            found = filesystem.get_file_info(selector)
            return [(info.path[len(place) :].strip("/"), info) for info in found]

        return self._ask(listed)


def store_path(text: str) -> StorePath:
    """Return the path that a folder or a URI names, without opening it.

    Raises:
        ValueError: The URI is not valid, or holds more than scheme, bucket and key.
    """
    if "://" not in text:
        return FolderPath(text).expanduser()
    parts = urlsplit(text)
    if "@" in parts.netloc:  # The error does not repeat it: it may hold a secret.
        raise ValueError(
            f"the {parts.scheme}:// URI holds credentials; give those in the environment instead"
        )
    if parts.query or parts.fragment:
        raise ValueError(
            f"the {parts.scheme}:// URI has a query, but must end with the path; "
            "give options such as the endpoint in the environment instead"
        )
    if parts.scheme == "file":
        return FolderPath(unquote(parts.path))
    return _object_path(text)


def _object_path(uri: str) -> ObjectPath:
    scheme, _, place = uri.partition("://")
    bucket, *key = list(filter(None, place.split("/"))) or [""]
    if not bucket:
        raise ValueError(f"{uri!r} names no bucket")
    path = ObjectPath(f"{scheme}://{bucket}")
    for part in key:
        path = path / part
    return path


def _read(filesystem: FileSystem, place: str) -> bytes:
    """Read a whole file.

    Its length and its content are two requests. If somebody replaces the file between them,
    pyarrow truncates the new content to the old length or pads it with zeros. So the file is read
    again until its version before and after is the same.
    """
    stream = filesystem.open_input_stream(place)
    while True:
        with stream:
            version, data = stream.metadata(), bytes(stream.read())
        stream = filesystem.open_input_stream(place)
        if stream.metadata() == version:
            stream.close()
            return data


def _write(data: Content, filesystem: FileSystem, place: str) -> int:
    with filesystem.open_output_stream(place) as stream:
        return int(stream.write(data))


@lru_cache
def _opened(root: str, options: str) -> tuple[FileSystem, str]:
    """Open a bucket as the environment says, once a process; return it and its path."""
    filesystem, bucket = FileSystem.from_uri(root + options)
    return filesystem, bucket.rstrip("/")
