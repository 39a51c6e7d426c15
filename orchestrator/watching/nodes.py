"""The nodes of the cluster as they come and go in a launch."""

import time

import ray

from orchestrator.watching.status import ClusterFacts

ASK_SECONDS = 5.0


class Nodes:
    """Tells what there is to run on, and what was lost, asking Ray only every few seconds."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._facts: ClusterFacts | None = None
        self._due = time.monotonic()

    def __call__(self) -> ClusterFacts | None:
        """Return the nodes that are alive, their CPUs and GPUs, and how many were lost."""
        if self._facts is None or time.monotonic() >= self._due:
            self._due = time.monotonic() + ASK_SECONDS
            self._ask()
        return self._facts

    def last(self) -> ClusterFacts | None:
        """Return what was known last, without asking."""
        return self._facts

    def _ask(self) -> None:
        try:
            alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        except Exception:  # A head out of reach shows itself elsewhere; what is known is told.
            return
        self._seen |= alive.keys()
        self._facts = ClusterFacts(
            nodes=len(alive),
            nodes_lost=len(self._seen - alive.keys()),
            cpus=sum(resources.get("CPU", 0.0) for resources in alive.values()),
            gpus=sum(resources.get("GPU", 0.0) for resources in alive.values()),
        )
