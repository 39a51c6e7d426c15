"""A lease on a study, where no kernel keeps a lock for all nodes, as in an object store.

The holder rewrites a record every few seconds. Whoever wants the lease watches the record by its
own monotonic clock: the holder is alive while the record changes. The store only has to make a
write visible to all readers soon.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Self
from uuid import uuid4

from trainables.storage.files import write_atomic
from trainables.storage.paths import StorePath

LEASE_SECONDS = 30.0
"""A record that has not changed for this long belongs to a dead process."""
BEAT_SECONDS = 5.0
"""How often the holder writes its record, and how long a new holder waits for a rival."""


def this_process() -> str:
    """Return a description of this process."""
    return f"process {os.getpid()} on {os.uname().nodename}"


class HeldError(Exception):
    """Somebody else holds the lease; the message names them."""


@dataclass(frozen=True)
class Heartbeat:
    """The record that the holder writes."""

    holder: str
    token: str
    """Tells this holder from all others."""
    number: int
    time: float
    """Seconds since the epoch, for people; no decision depends on it."""

    @classmethod
    def read(cls, path: StorePath) -> Self | None:
        """Return the record, None if it is missing or cannot be read."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


class Lease:
    """Acquires and holds one lease.

    Args:
        path: File of the record.
        seconds: How long a record stays unchanged before its holder counts as dead.
        beat_seconds: How often the record is written.
    """

    def __init__(
        self, path: StorePath, seconds: float = LEASE_SECONDS, beat_seconds: float = BEAT_SECONDS
    ) -> None:
        self._path = path
        self._seconds = seconds
        self._beat_seconds = beat_seconds
        self._beat = Heartbeat(this_process(), uuid4().hex, 0, time.time())
        self._ended = threading.Event()

    @contextmanager
    def held(self, say: Callable[[str], None], on_lost: Callable[[str], None]) -> Iterator[None]:
        """Hold the lease for the duration of the context.

        Args:
            say: Called with what is being waited for.
            on_lost: Called from another thread with the new holder, should the lease be lost.

        Raises:
            HeldError: Somebody else holds it and is alive.
            OSError: The record cannot be written.
        """
        self._wait_for_death(say)
        self._write()
        self._ended.wait(self._beat_seconds / 2)  # In case a rival started at the same moment.
        self._check()
        thread = threading.Thread(target=self._keep, args=[on_lost], daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self._release()

    def _wait_for_death(self, say: Callable[[str], None]) -> None:
        """Watch another holder's record until it changes, is gone or is old enough.

        A record that cannot be read may be one that is just being written.
        """
        if not self._path.exists():
            return
        before = Heartbeat.read(self._path)
        holder = before.holder if before else "somebody"
        wait = f"waiting {self._seconds:g} s to see whether it still is"
        say(f"{holder} was running this study; {wait}")
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            self._ended.wait(self._beat_seconds / 5)
            if not self._path.exists():
                return
            now = Heartbeat.read(self._path)
            if now and now != before:
                raise HeldError(now.holder)

    def _write(self) -> None:
        self._beat = replace(self._beat, number=self._beat.number + 1, time=time.time())
        write_atomic(self._path, json.dumps(asdict(self._beat)).encode())

    def _check(self) -> None:
        found = Heartbeat.read(self._path)
        if found is None or found.token != self._beat.token:
            raise HeldError(found.holder if found else "somebody who removed its record")

    def _keep(self, on_lost: Callable[[str], None]) -> None:
        while not self._ended.wait(self._beat_seconds):
            try:
                self._check()
                self._write()
            except HeldError as error:
                on_lost(str(error))
                return
            except OSError:
                continue  # While the storage is unreachable nobody can take over.

    def _release(self) -> None:
        try:
            self._check()
            self._path.unlink(missing_ok=True)
        except (HeldError, OSError):
            return  # It is another's, or will count as dead.
