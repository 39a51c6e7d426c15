"""Notices that the head of a Ray cluster is gone, or the driver's own raylet: none goes on then.

Without a head Ray itself ends the driver's process after a minute, from its native code and without
a word to the user; without a raylet the driver would wait forever for processes to start.
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
HEAD_PATIENCE_SECONDS = 45.0
"""A head that comes back with its memory within this time is as good as never gone."""
RAYLET_PATIENCE_SECONDS = 5.0
"""A raylet does not come back; this is for one that has no time to answer."""

RAY_LOST = 1
"""Exit status of a driver whose Ray is gone."""


class _Listener:
    """Something that listens at an address.

    Attributes:
        silent: For how many seconds it has not answered, when looked at last.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._answered = time.monotonic()
        self.silent = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if answers(self._address):
            self._answered = now
        self.silent = now - self._answered


@contextmanager
def ray_watched(on_lost: Callable[[str], None]) -> Iterator[None]:
    """End this process once the head of its cluster is gone, or the raylet of its node.

    Args:
        on_lost: Called first, with what is lost, in another thread than the caller's: tells the
            user.
    """
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(left, on_lost), daemon=True, name="Ray watch")
    watch.start()
    try:
        yield
    finally:
        left.set()


def _watch(left: threading.Event, on_lost: Callable[[str], None]) -> None:
    address = ray.get_runtime_context().gcs_address
    if not answers(address):
        return  # A client of `ray://` need not reach it.
    cluster_id, head, raylet = _cluster_id(address), _Listener(address), _Listener(_raylet())
    while not left.wait(SECONDS_BETWEEN_LOOKS):
        was_silent = head.silent > 0
        head.look()
        raylet.look()
        if head.silent:
            lost = "head" if head.silent >= HEAD_PATIENCE_SECONDS else None
        elif was_silent and _cluster_id(address) != cluster_id:
            lost = "head"
        else:
            lost = "local raylet" if raylet.silent >= RAYLET_PATIENCE_SECONDS else None
        if lost:
            # The main thread may hang in a call to Ray: no exception would reach it.
            on_lost(lost)
            os._exit(RAY_LOST)


def _raylet() -> str:
    """Return where the raylet of the driver's node listens."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def _cluster_id(address: str) -> str | None:
    """Return what tells one life of a cluster from the next, None where its head is silent."""
    try:
        return str(GcsClient(address=address).cluster_id.hex())
    except Exception:  # Of Ray's own or of gRPC, whatever went wrong.
        return None
