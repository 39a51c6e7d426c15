"""What else a machine does while something is measured on it."""

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, TypedDict

import torch

LARGEST_SPREAD = 0.1
"""Of the host's own rounds, relative to their median."""
SHARE_OF_OTHERS = 0.1
"""Of the CPUs that the measurement has, which others may take."""
STATISTICS = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of the first line of `STATISTICS`: user, nice, system, irq, softirq, steal."""


class Snapshot(NamedTuple):
    """Times of this node since it started, in seconds; None where there is no `STATISTICS`."""

    clock: float
    load: float
    """Processes that want to run, averaged over a minute."""
    busy: float | None
    """CPU time of all processes."""
    own: float
    """CPU time of this process, and of those it has started and seen end."""

    @classmethod
    def now(cls) -> Self:
        """Look at the node."""
        return cls(time.perf_counter(), os.getloadavg()[0], _busy_seconds(), sum(os.times()[:4]))


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What was going on beside a measurement."""

    load_before: float
    load_after: float
    other_cpus: float | None
    """CPUs that others took of the node, on average; None where that cannot be known."""
    gpu_users: int | None
    """Other processes that have a context on the GPU; None on a CPU, or where nothing tells."""

    @classmethod
    def since(cls, before: Snapshot, device: torch.device) -> Self:
        """Return what was going on since `before`."""
        after = Snapshot.now()
        return cls(
            load_before=before.load,
            load_after=after.load,
            other_cpus=_others(before, after),
            gpu_users=_gpu_users(device) if device.type == "cuda" else None,
        )

    def disturbances(self, host_spread: float, threads: int) -> list[str]:
        """Say what makes a measurement doubtful; nothing where it was alone.

        Args:
            host_spread: `Quartiles.spread` of the host's own rounds.
            threads: CPUs that the measurement needs.
        """
        found = []
        if host_spread > LARGEST_SPREAD:
            found.append(f"the host's own rounds spread by {host_spread:.0%}")
        cpus = os.cpu_count() or 1
        spare = cpus - threads
        if self.other_cpus is not None and self.other_cpus > spare + SHARE_OF_OTHERS * threads:
            found.append(f"others took {self.other_cpus:.1f} of {cpus} CPUs")
        if self.gpu_users:
            found.append(f"processes of others on the GPU: {self.gpu_users}")
        return found


class DeviceFacts(TypedDict):
    """What a measurement was made on."""

    device: str
    """Its name; a CPU's has the threads, too."""
    device_type: str
    threads: int
    """Of the CPU."""


def device_facts(device: torch.device, threads: int) -> DeviceFacts:
    """Return name and type of a device, and the CPU threads; a CPU's name tells them, too."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"
    return DeviceFacts(device=name, device_type=device.type, threads=threads)


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _busy_seconds() -> float | None:
    if not STATISTICS.exists():
        return None
    columns = STATISTICS.read_text().partition("\n")[0].split()[1:]
    return sum(int(columns[column]) for column in BUSY) / os.sysconf("SC_CLK_TCK")


def _others(before: Snapshot, after: Snapshot) -> float | None:
    if before.busy is None or after.busy is None:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, others / (after.clock - before.clock))


def _gpu_users(device: torch.device) -> int | None:
    """Ask the driver's own tool, which is there wherever the driver is."""
    identity = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = ["nvidia-smi", identity, "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(  # noqa: S603 - All of it is ours.
            query, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    pids, own = listed.stdout.split(), str(os.getpid())
    others = [pid for pid in pids if pid != own and not _is_idle(pid)]
    # In a container processes may have other numbers, this one, too.
    return len(others) - (own not in pids and bool(others))


def _is_idle(pid: str) -> bool:
    """Tell whether a process waits for tasks of Ray: it has a context and computes nothing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::IDLE")
    except OSError:
        return False
