"""The Ray that a study runs on: a cluster that is joined, or one that is started here."""

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import joblib
import ray

from orchestrator.cluster.ray_internals import (
    own_code_first,
    send_no_environment,
    shield_processes,
    show_worker_logs,
    start_ray,
    stay_on_loopback,
)
from orchestrator.cluster.same_code import refuse_other_code
from orchestrator.cluster.socket_folder import socket_folder
from orchestrator.errors import UserError

T = TypeVar("T")

STARTS = 3
"""How often an embedded Ray is started that takes too long."""
STARTED_TOO_SLOWLY = "timed out during startup"
"""What Ray reports when its node was not up within 30 seconds, for which it has no setting:

https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/node.py#L428
"""


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
    shared: bool = False
    """Whether other jobs may hold some of it."""

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
    """Connect to the Ray that `prepare_ray` chose, and disconnect at the end.

    A Ray that is started here can be reached from this machine alone.

    Args:
        address: The cluster's, or None to start Ray in this process.
        verbose: Print Ray's own messages.
        dashboard: Start Ray's dashboard, too; a cluster has its own.

    Raises:
        UserError: The cluster refuses, or runs other versions or other code.
    """
    options = {
        "job_config": own_code_first(),
        "log_to_driver": verbose,
        "logging_level": "INFO" if verbose else "ERROR",
    }
    with ExitStack() as stack:
        if verbose:
            stack.enter_context(_own_messages_shown())
        _silence(verbose=verbose)
        if address:
            stack.callback(ray.shutdown)
            context = _join(address, options)
        else:
            scratch = stack.enter_context(socket_folder())
            stack.callback(ray.shutdown)
            context = _embed(scratch, dashboard, options)
        refuse_other_code()
        total = ray.cluster_resources()
        where = f"the Ray cluster at {address}" if address else "this machine"
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive)
        cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
        url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        metrics, shared = _metrics_address(), address is not None
        yield Cluster(where, cpus, gpus, nodes, dashboard=url, metrics=metrics, shared=shared)


def _embed(scratch: Path, dashboard: bool, options: dict[str, Any]) -> Any:
    """Start Ray in this process; on a busy machine that may take more time than Ray allows.

    Raises:
        UserError: It took too long again and again.
    """
    stay_on_loopback()
    shield_processes()
    send_no_environment()
    for _ in range(STARTS):
        try:
            # Elsewhere than a cluster's: no other study should take this Ray for one.
            return start_ray(
                scratch,
                # By itself Ray counts the CPUs of the machine, whatever this process may use:
                # https://github.com/ray-project/ray/issues/28586
                num_cpus=joblib.cpu_count(),
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                **options,
            )
        except Exception as error:  # Ray has no narrower type for it.
            if STARTED_TOO_SLOWLY not in str(error):
                raise
            ray.shutdown()
    raise UserError(
        f"Ray did not start on this machine within 30 s, {STARTS} times in a row; its load average "
        f"is {os.getloadavg()[0]:.0f} on {joblib.cpu_count()} CPUs: try again when it is less busy"
    )


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


def _join(address: str, options: dict[str, Any]) -> Any:
    try:
        return ray.init(address=address, **options)
    except ConnectionError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise UserError(f"cannot join the Ray cluster at {address}: {reason}") from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise UserError(_mismatch(address, str(error))) from error


def _mismatch(address: str, message: str) -> str:
    """Return in one line which versions a cluster has and which this process has.

    Args:
        address: The cluster's.
        message: Ray's own, of six lines:
            https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/utils.py#L1438
    """
    rays, pythons = (re.findall(rf"{name}: (\S+)", message) for name in ("Ray", "Python"))
    if len(rays) != 2 or len(pythons) != 2:
        return f"cannot join the Ray cluster at {address}: {' '.join(message.split())}"
    return (
        f"the Ray cluster at {address} runs Ray {rays[0]} on Python {pythons[0]}, but this process "
        f"Ray {rays[1]} on Python {pythons[1]}; use the cluster's here: "
        + (
            f"pip install 'ray[default,tune]=={rays[0]}'"
            if pythons[0] == pythons[1]
            else f"an environment with Python {pythons[0]} and ray[default,tune]=={rays[0]}"
        )
    )


def _metrics_address() -> str | None:
    here = ray.get_runtime_context().get_node_id()
    node = next((node for node in ray.nodes() if node["NodeID"] == here), None)
    return node and f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


@contextmanager
def _own_messages_shown() -> Iterator[None]:
    """Write to stderr, meanwhile, what the modules of `orchestrator` log: slower ways taken."""
    log, handler = logging.getLogger("orchestrator"), logging.StreamHandler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _silence(*, verbose: bool) -> None:
    """Keep traces of failed trials and tasks off the console: `error.txt` has them."""
    logging.getLogger("ray.tune").setLevel(logging.INFO if verbose else logging.CRITICAL)
    show_worker_logs(verbose)
