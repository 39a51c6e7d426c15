"""The phase `measure`: the speed of cells' models, each alone on a whole device."""

import shlex
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from orchestrator.cluster.task_pool import Call, TaskPool
from orchestrator.console import Context
from orchestrator.results.speed_jobs import SpeedJob, measure_on
from orchestrator.store.store import Store
from trainables.storage.paths import StorePath
from trainables.storage.retry import patience

TYPE = "accelerator_type:"
"""Prefix of the resource by which Ray names the GPUs of a node."""
RETRIES = 2
"""How often a measurement is repeated whose process dies, alone or with its node."""


@dataclass(frozen=True)
class WholeDevice:
    """What a task reserves so that Ray puts nothing beside it."""

    options: Mapping[str, Any]
    """Of the Ray task."""
    gpu: bool
    threads: int
    count: int
    """How many such devices there are."""

    @classmethod
    def of(cls, nodes: Iterable[Mapping[str, Any]]) -> "WholeDevice":
        """Return the devices of Ray's nodes, as their resources: all are of one kind.

        These are the GPUs of the commonest type or, where there is no GPU, the largest nodes.
        """
        nodes = list(nodes)
        gpus: dict[str | None, int] = {}
        for node in nodes:
            kind = next((name for name in node if name.startswith(TYPE)), None)
            gpus[kind] = gpus.get(kind, 0) + int(node.get("GPU", 0))
        if any(gpus.values()):
            kind = max(gpus, key=lambda name: gpus[name])
            typed = {"resources": {kind: 0.001}} if kind else {}
            return cls({"num_cpus": 1, "num_gpus": 1, **typed}, True, 1, gpus[kind])
        sizes = [int(node.get("CPU", 0)) for node in nodes]
        return cls({"num_cpus": max(sizes)}, False, max(sizes), sizes.count(max(sizes)))


def measure_all(
    store: Store,
    jobs: Sequence[SpeedJob],
    data: Path | None,
    weights: Path | None,
    context: Context,
) -> bool:
    """Measure, each job on a device of its own, until the launch is stopping.

    Args:
        store: The study's store.
        jobs: What to measure.
        data: Folder of the datasets, as it was given.
        weights: Folder of the hosts' pretrained weights.
        context: The launch's.

    Returns:
        Whether all has been measured.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    device = WholeDevice.of(node["Resources"] for node in nodes)
    task = ray.remote(
        **device.options,
        max_retries=RETRIES,
        max_calls=0,  # A process that has imported torch serves the next job, too.
        runtime_env=environment(node["NodeManagerHostname"] for node in nodes),
    )(measure_job)
    pool = TaskPool(task, device.count, "measure")
    place = (data, weights, device.gpu, device.threads)
    calls = [Call(job.name, (store.path.absolute(), job, *place)) for job in jobs]
    succeeded: list[bool] = []

    def tick() -> None:
        context.draw("measuring speed", len(succeeded), len(jobs))

    with closing(pool.outcomes(calls, stopping=lambda: context.stopping, tick=tick)) as outcomes:
        for name, outcome in outcomes:
            succeeded.append(not isinstance(outcome, Exception))
            if isinstance(outcome, Exception):
                context.note(f"{name}: not measured: {_reason(outcome)}")
    tick()
    return sum(succeeded) == len(jobs)


def environment(hosts: Iterable[str]) -> dict[str, Any]:
    """Return the runtime environment of a process that measures.

    CPU threads that spin while they wait for each other take a hundred times as long as soon as
    anything else wants a CPU. The variable is read as a process starts.

    Ray gives the path of Python to a shell as it is, so that no process starts where the path has
    a space. Where all is on this machine, it is given quoted instead; other nodes have their own:
    https://github.com/ray-project/ray/blob/ray-2.49.0/python/ray/_private/runtime_env/context.py

    Args:
        hosts: Names of the machines that Ray's nodes are on.
    """
    variables = {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}
    quoted = shlex.quote(sys.executable)
    if quoted == sys.executable or set(hosts) != {socket.gethostname()}:
        return variables
    return variables | {"py_executable": quoted}


def measure_job(
    study: StorePath,
    job: SpeedJob,
    data: Path | None,
    weights: Path | None,
    gpu: bool,
    threads: int,
) -> None:
    """Do a job, in a Ray task that has a whole device."""
    from trainables.measuring.measuring import Place
    from trainables.models.device import device_for

    with patience():
        measure_on(Store(study), job, data, Place(device_for(gpu), threads, weights), by_study=True)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
