"""Ends the driver when it cannot continue: the head of its Ray cluster or its own raylet is lost.

Without a head Ray itself ends the driver's process after a minute, from its native code and without
a message; without a raylet, or the sockets at which it is reached, the driver would wait forever
for processes to start.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from orchestrator.cluster.ray_internals import cluster_id
from orchestrator.cluster.ray_setup import answers

SECONDS_BETWEEN_LOOKS = 1.0
HEAD_PATIENCE_SECONDS = 45.0
"""A head that returns with its memory within this time is not lost."""
RAYLET_PATIENCE_SECONDS = 5.0
"""A raylet never returns; a busy one needs some time to answer."""
SAVING_SECONDS = 300.0
"""How long cells may take to save once the sockets are gone: they are connected already."""

RAY_LOST = 1
"""Exit status of a driver whose Ray is lost."""


class _Listener:
    """Something that listens at an address.

    Attributes:
        silent: For how many seconds it had not answered when looked at last.
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


class _Sockets:
    """The files at which new processes of a node reach its raylet.

    Attributes:
        gone: For how many seconds one of them had been removed when looked at last.
    """

    def __init__(self, node: dict[str, Any]) -> None:
        self.files = [Path(node[name]) for name in ("RayletSocketName", "ObjectStoreSocketName")]
        self._there = time.monotonic()
        self.gone = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if all(file.exists() for file in self.files):
            self._there = now
        self.gone = now - self._there


@contextmanager
def ray_watched(
    on_lost: Callable[[str], None], on_removed: Callable[[Path], None]
) -> Iterator[None]:
    """End this process once the head of its cluster is lost, or the raylet of its node.

    Both arguments are called in another thread than the caller's.

    Args:
        on_lost: Reports to the user. It is called before the end, with what is lost.
        on_removed: Called when somebody has removed the raylet's sockets, with their folder. It
            has to make the caller leave the context soon.
    """
    left = threading.Event()
    watch = threading.Thread(
        target=_watch, args=(left, on_lost, on_removed), daemon=True, name="Ray watch"
    )
    watch.start()
    try:
        yield
    finally:
        left.set()


def _watch(
    left: threading.Event, on_lost: Callable[[str], None], on_removed: Callable[[Path], None]
) -> None:
    address, node = ray.get_runtime_context().gcs_address, _node()
    joined, head, sockets = cluster_id(address), _Listener(address), _Sockets(node)
    raylet = _Listener(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
    told = False
    while not left.wait(SECONDS_BETWEEN_LOOKS):
        was_silent = head.silent > 0
        for each in (head, raylet, sockets):
            each.look()
        # A raylet that ends removes them, too.
        if sockets.gone >= RAYLET_PATIENCE_SECONDS and not (raylet.silent or told):
            told = True
            on_removed(sockets.files[0].parent)
        if head.silent:
            lost = "head" if head.silent >= HEAD_PATIENCE_SECONDS else None
        elif was_silent and cluster_id(address) != joined:
            lost = "head"
        else:
            dead = raylet.silent >= RAYLET_PATIENCE_SECONDS or sockets.gone >= SAVING_SECONDS
            lost = "local raylet" if dead else None
        if lost:
            # The main thread may hang in a call to Ray, where no exception would reach it.
            on_lost(lost)
            os._exit(RAY_LOST)


def _node() -> dict[str, Any]:
    """Return what Ray knows of the driver's node."""
    here = ray.get_runtime_context().get_node_id()
    return next(node for node in ray.nodes() if node["NodeID"] == here)
