"""What a cell with `auto` resources reserves: from the memory it takes, and what machines have."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.study import AUTO, Resources, in_words

HEADROOM = 1.2
"""Memory reserved over memory measured: batches, libraries and their fragments differ a little."""
SMALLEST_SHARE = 1 / 16
"""Of a GPU: smaller ones would not make it any faster."""
TYPE = "accelerator_type:"


@dataclass(frozen=True)
class Reserved:
    """What a trial reserves for each of its workers."""

    cpu: float
    gpu: float
    workers: int

    @property
    def share(self) -> float:
        """GPUs, or CPUs where it has no GPU, of all workers together."""
        return (self.gpu or self.cpu) * self.workers

    def __str__(self) -> str:
        return in_words(self.cpu, self.gpu, self.workers)


@dataclass(frozen=True)
class Hardware:
    """What there is to be shared."""

    memory: Mapping[str, float]
    """Main memory in bytes for each GPU, by the GPUs' type, or for each `CPU` where there is none;
    the least that any machine has."""
    cpus_a_gpu: float
    """The least that any machine with GPUs has; infinite where there is none."""
    most_cpus: float
    """Of the largest machine."""

    @classmethod
    def of(cls, nodes: Iterable[Mapping[str, Any]]) -> "Hardware":
        """Return what Ray's nodes, as their resources, have."""
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
        """Tell whether something is left to a calibration here."""
        return (wanted.gpu if self.has_gpus else wanted.cpu) == AUTO

    def reserved(self, wanted: Resources, taken: float) -> Reserved:
        """Return what cells reserve.

        Args:
            wanted: What the study file says.
            taken: Memory that such a cell takes, in GPUs or, without any, in CPUs' parts of the
                main memory; where nothing is known, infinite.
        """
        needed = taken * HEADROOM
        if not self.has_gpus:
            by_memory = min(self.most_cpus, max(1.0, math.ceil(min(needed, self.most_cpus))))
            return Reserved(_or(wanted.cpu, by_memory), 0.0, wanted.workers)
        at_least = _or(wanted.cpu, 1.0) / self.cpus_a_gpu  # More cells would find no CPU.
        gpu = _or(wanted.gpu, share_for(max(needed, at_least)))
        cpus = math.floor(gpu * self.cpus_a_gpu * 100) / 100 or 1.0
        return Reserved(_or(wanted.cpu, cpus), gpu, wanted.workers)


def share_for(needed: float) -> float:
    """Return the smallest half of a half of ... a GPU that is as much as needed, at most a whole.

    Halves of halves fill a GPU to the last bit, whatever their mixture.
    """
    share = 1.0
    while share / 2 >= max(needed, SMALLEST_SHARE):
        share /= 2
    return share


def _or(amount: float | str, otherwise: float) -> float:
    return otherwise if isinstance(amount, str) else amount
