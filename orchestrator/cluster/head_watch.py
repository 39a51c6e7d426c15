"""Notices that the head of a Ray cluster is gone, which a driver cannot outlive.

Ray itself ends the driver's process about a minute later, from its native code and without a word
to the user.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from orchestrator.cluster.ray_setup import answers

SECONDS_BETWEEN_LOOKS = 1.0
PATIENCE_SECONDS = 45.0
"""A head that comes back with its memory within this time is as good as never gone."""

HEAD_LOST = 1
"""Exit status of a driver whose head is gone."""


@contextmanager
def head_watched(on_lost: Callable[[], None]) -> Iterator[None]:
    """End this process once the head of the cluster that it has joined is gone.

    Args:
        on_lost: Called first, in another thread than the caller's: tells the user.
    """
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(left, on_lost), daemon=True, name="head watch")
    watch.start()
    try:
        yield
    finally:
        left.set()


def _watch(left: threading.Event, on_lost: Callable[[], None]) -> None:
    address = ray.get_runtime_context().gcs_address
    if not answers(address):
        return  # A client of `ray://` need not reach it.
    cluster_id, silent_since = _cluster_id(address), None
    while not left.wait(SECONDS_BETWEEN_LOOKS):
        silent = not answers(address)
        if silent_since is None:
            silent_since = time.monotonic() if silent else None
        elif silent and time.monotonic() - silent_since < PATIENCE_SECONDS:
            continue
        elif silent or _cluster_id(address) != cluster_id:
            # The main thread may hang in a call to the head: no exception would reach it.
            on_lost()
            os._exit(HEAD_LOST)
        else:
            silent_since = None


def _cluster_id(address: str) -> str | None:
    """Return what tells one life of a cluster from the next, None where its head is silent."""
    try:
        return str(GcsClient(address=address).cluster_id.hex())
    except Exception:  # Of Ray's own or of gRPC, whatever went wrong.
        return None
