"""A Ray cluster of several nodes on this machine, each of whose parts can be killed."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from launching import (
    PATIENCE,
    TRAINERS,
    Launch,
    children,
    processes,
    runs,
    training_processes,
    wait_until,
)
from ports import free_ports

RAY = Path(sys.executable).with_name("ray")
PATIENT = {"RAY_raylet_start_wait_time_s": str(int(PATIENCE))}
"""How Ray is told to wait as long for its parts as these tests do."""
OBJECT_STORE_BYTES = 80 * 2**20
"""Little more than the least that Ray accepts."""


class Node:
    """What `ray start --block` runs: a raylet, its helpers, and on the head node the GCS."""

    def __init__(
        self, folder: Path, *arguments: str, cpus: int, gpus: int, env: dict[str, str]
    ) -> None:
        self.cpus, self.gpus = cpus, gpus
        common = [
            f"--num-cpus={cpus}",
            f"--num-gpus={gpus}",
            "--block",
            "--disable-usage-stats",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            # Ranges given in advance would clash with those of other nodes on this machine.
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--include-log-monitor=false",
        ]
        self.output = folder / f"node-{time.monotonic_ns()}.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [RAY, "start", *common, *arguments],
                stdout=output,
                stderr=output,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
                start_new_session=True,
            )

    @property
    def is_up(self) -> bool:
        """Whether it has joined the cluster."""
        assert self.process.poll() is None, self.output.read_text()
        return "This command will now block" in self.output.read_text()

    def trainers(self, actor: str = TRAINERS) -> list[int]:
        """Return the processes that train cells on this node."""
        return training_processes(self.process.pid, actor)

    def kill_raylet(self) -> None:
        """Kill the raylet, as the kernel might; the node's other processes notice it."""
        for process in self._named("raylet"):
            os.kill(process, signal.SIGKILL)

    def kill_gcs(self) -> None:
        """Kill the cluster's memory, which lives on the head node."""
        for process in self._named("gcs_server"):
            os.kill(process, signal.SIGKILL)

    def kill(self) -> None:
        """Kill everything on the node at once."""
        for process in [self.process.pid, *self._everything()]:
            _signal(process, signal.SIGKILL)
        self.process.wait()

    def _named(self, program: str) -> list[int]:
        _, titles = processes()
        started = children([self.process.pid])
        return [p for p in started if runs(titles.get(p, b""), program)]

    def _everything(self) -> list[int]:
        found, new = set(), {self.process.pid}
        while new := set(children(new)) - found:
            found |= new
        return list(found)


class LocalCluster:
    """A head node that trains nothing, and as many other nodes as one adds.

    Args:
        env: Environment variables of the nodes and of the launches on them.
    """

    def __init__(self, env: dict[str, str] | None = None) -> None:
        # Short, and not below the tests' folder: Ray puts sockets there.
        self._folder = tempfile.TemporaryDirectory(prefix="fxr", ignore_cleanup_errors=True)
        self._env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            **PATIENT,
            **(env or {}),
        }
        self._port, self._dashboard_port = free_ports(2)
        self.address = f"127.0.0.1:{self._port}"
        self.nodes: list[Node] = []
        self.start_head()

    def start_head(self) -> None:
        """Start the head node, for the first time or again."""
        self.head = Node(
            Path(self._folder.name),
            "--head",
            f"--port={self._port}",
            "--include-dashboard=false",
            f"--dashboard-port={self._dashboard_port}",
            "--no-monitor",
            f"--temp-dir={self._folder.name}",
            cpus=0,
            gpus=0,
            env=self._env,
        )
        wait_until(lambda: self.head.is_up, self.head.output.read_text)

    def restart(self) -> None:
        """Start the cluster again, with as many nodes, after its head was lost."""
        nodes = self.nodes
        for node in [*nodes, self.head]:
            node.kill()
        self.nodes = []
        self.start_head()
        for node in nodes:
            self.add_node(node.cpus, node.gpus)

    def add_node(self, cpus: int = 1, gpus: int = 0) -> Node:
        """Start one more node; it joins within seconds."""
        node = Node(
            Path(self._folder.name),
            f"--address={self.address}",
            cpus=cpus,
            gpus=gpus,
            env=self._env,
        )
        self.nodes.append(node)
        # One at a time: two that start at once on one machine take the same sockets.
        wait_until(lambda: node.is_up, node.output.read_text)
        return node

    def lose(self, node: Node) -> None:
        """Kill everything on a node at once, as its power supply might."""
        node.kill()
        self.nodes.remove(node)

    def trainers(self, actor: str = TRAINERS) -> list[int]:
        """Return the processes that train cells anywhere."""
        return [process for node in self.nodes for process in node.trainers(actor)]

    def launch(self, storage: Path, **options: Any) -> Launch:
        """Launch a study on the cluster."""
        return Launch(storage, "--address", self.address, env=self._env, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in [*self.nodes, self.head]:
            node.kill()
        self._folder.cleanup()


def _signal(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
