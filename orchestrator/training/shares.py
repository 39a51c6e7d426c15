"""Choose what a cell with `auto` resources reserves, from its memory and the machines'."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.study.study import AUTO, Resources, in_words

HEADROOM = 1.2
"""Memory reserved over memory measured, because batches and fragmentation differ a little."""
SMALLEST_SHARE = 1 / 16
"""Smallest share of a GPU: with more cells than that it gets no faster."""
TYPE = "accelerator_type:"


@dataclass(frozen=True)
class Reservation:
    """Resources of each worker of a trial."""

    cpu: float
    gpu: float
    workers: int

    @property
    def share(self) -> float:
        """GPUs of all workers together, or CPUs without a GPU."""
        return (self.gpu or self.cpu) * self.workers

    def __str__(self) -> str:
        return in_words(self.cpu, self.gpu, self.workers)


@dataclass(frozen=True)
class Hardware:
    """The machines of a cluster, as far as shares depend on them."""

    memory: Mapping[str, float]
    """Bytes of main memory per GPU, by the GPUs' type, or per `CPU` without GPUs; the least of any
    machine."""
    cpus_a_gpu: float
    """The least of any machine with GPUs; infinite without one."""
    most_cpus: float
    """Of the largest machine."""

    @classmethod
    def of(cls, nodes: Iterable[Mapping[str, float]]) -> "Hardware":
        """Return the hardware of Ray's nodes, given by their resources."""
        nodes = list(nodes)
        with_gpus = [node for node in nodes if node.get("GPU")]
        kind = "GPU" if with_gpus else "CPU"
        memory: dict[str, float] = {}
        for node in with_gpus or nodes:
            name = next((key.removeprefix(TYPE) for key in node if key.startswith(TYPE)), kind)
            bytes_each = node.get("memory", 0.0) / max(node.get(kind, 1.0), 1.0)
            memory[name] = min(bytes_each, memory.get(name, math.inf))
        cpus = (max(node.get("CPU", 0.0), 1e-9) / node["GPU"] for node in with_gpus)
        most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        return cls(memory, min(cpus, default=math.inf), most)

    @property
    def has_gpus(self) -> bool:
        """Whether cells train on GPUs."""
        return math.isfinite(self.cpus_a_gpu)

    def calibrates(self, wanted: Resources) -> bool:
        """Return whether a calibration decides on this hardware what cells reserve."""
        return (wanted.gpu if self.has_gpus else wanted.cpu) == AUTO

    def reserved(self, wanted: Resources, taken: float) -> Reservation:
        """Return what cells reserve.

        Args:
            wanted: What the study file says.
            taken: Memory that such a cell takes: in GPUs, or without GPUs in the main memory per
                CPU. Infinite if it is unknown.
        """
        needed = taken * HEADROOM
        if not self.has_gpus:
            by_memory = min(self.most_cpus, max(1.0, math.ceil(min(needed, self.most_cpus))))
            return Reservation(_or(wanted.cpu, by_memory), 0.0, wanted.workers)
        at_least = _or(wanted.cpu, 1.0) / self.cpus_a_gpu  # For more cells there are no CPUs.
        gpu = _or(wanted.gpu, share_for(max(needed, at_least)))
        cpus = math.floor(gpu * self.cpus_a_gpu * 100) / 100 or 1.0
        return Reservation(_or(wanted.cpu, cpus), gpu, wanted.workers)


def share_for(needed: float) -> float:
    """Return the smallest power of a half of a GPU that is as much as needed, at most a whole one.

    Any mixture of such shares fills a GPU completely.
    """
    share = 1.0
    while share / 2 >= max(needed, SMALLEST_SHARE):
        share /= 2
    return share


def _or(amount: float | str, otherwise: float) -> float:
    return otherwise if isinstance(amount, str) else amount
