"""The Ray that a study runs on, joined or started, and left again at the end."""

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray

from orchestrator.cluster.environment import send_no_environment
from orchestrator.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """What the study has to run on."""

    where: str
    cpus: float
    gpus: float
    nodes: tuple[tuple[float, float], ...]
    """CPUs and GPUs of each node: a process has to fit into one."""
    dashboard: str | None = None
    """Address of Ray's dashboard, if it has one."""
    metrics: str | None = None
    """Where Prometheus finds the metrics of the driver's node."""

    def room(self, cpus: float, gpus: float) -> int:
        """Return how many processes that need as much fit at once, when nothing else runs."""
        needs = [(kind, need) for kind, need in enumerate((cpus, gpus)) if need]
        # The small number undoes rounding: three times 0.1 fit into 0.3.
        return sum(
            min(int(node[kind] / need + 1e-9) for kind, need in needs) for node in self.nodes
        )

    def __str__(self) -> str:
        return f"{self.where} ({self.cpus:g} CPUs, {self.gpus:g} GPUs)"


@contextmanager
def connected(address: str | None, *, verbose: bool, dashboard: bool = False) -> Iterator[Cluster]:
    """Connect to the Ray that `prepare_ray` chose, and let go of it at the end.

    A Ray that is started here can be reached from this machine alone.

    Args:
        address: The cluster's, or None to start Ray in this process.
        verbose: Let Ray's own messages through.
        dashboard: Start Ray's dashboard, too; a cluster has its own.

    Raises:
        UserError: The cluster refuses.
    """
    _silence(verbose=verbose)
    quiet = {"log_to_driver": verbose, "logging_level": "INFO" if verbose else "ERROR"}
    scratch = Path(tempfile.mkdtemp(prefix="ray-"))  # Short: Ray puts sockets below it.
    try:
        if address:
            context = _join(address, quiet)
        else:
            _stay_on_loopback()
            send_no_environment()
            context = ray.init(
                address="local",
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                # Elsewhere than a cluster's: no other study should take this Ray for one.
                _temp_dir=str(scratch),
                **quiet,
            )
        total = ray.cluster_resources()
        where = f"the Ray cluster at {address}" if address else "this machine"
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive)
        cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
        url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        yield Cluster(where, cpus, gpus, nodes, dashboard=url, metrics=_metrics_address())
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def remembered(ask: Callable[[], T], seconds: float = 1.0) -> Callable[[], T]:
    """Return a function that calls `ask` again only when its last answer is older than that."""
    answers: list[T] = []
    asked = -math.inf

    def answer() -> T:
        nonlocal asked
        if time.monotonic() - asked >= seconds:
            answers[:] = [ask()]
            asked = time.monotonic()
        return answers[0]

    return answer


def _join(address: str, quiet: dict[str, Any]) -> Any:
    try:
        return ray.init(address=address, **quiet)
    except ConnectionError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise UserError(f"cannot join the Ray cluster at {address}: {reason}") from error


def _metrics_address() -> str | None:
    here = ray.get_runtime_context().get_node_id()
    node = next((node for node in ray.nodes() if node["NodeID"] == here), None)
    return node and f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def _stay_on_loopback() -> None:
    """Have a Ray that is started in this process listen on 127.0.0.1 alone.

    Its processes listen on all interfaces unless that is the address of their node, and `ray.init`
    takes no loopback address. Ray itself does this where it supports no clusters.
    """
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False


def _silence(*, verbose: bool) -> None:
    """Keep traces of failed trials and tasks off the console: `error.txt` has them."""
    logging.getLogger("ray.tune").setLevel(logging.INFO if verbose else logging.CRITICAL)
    # Errors of tasks are printed even with `log_to_driver=False`; Ray has no public switch.
    ray._private.worker._worker_logs_enabled = verbose
