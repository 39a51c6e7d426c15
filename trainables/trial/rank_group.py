"""A cell's ranks as Ray actors, one to a bundle of the trial's own placement group."""

import os
import socket
import sys
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import TCPStore

from trainables.cell.report import TrialReport
from trainables.models.device import device_for
from trainables.trial.cell_training import CellTraining
from trainables.trial.config import TrialConfig
from trainables.trial.lost_nodes import LostWithNodeError, is_lost_with_node
from trainables.workers import PATIENCE, joined

SECONDS_TO_NOTICE_A_DEATH = 5.0
"""Ranks that lose the connection to a dead one fail before Ray notices the death."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
"""Name of the interface that no other machine can reach."""


class RankDiedError(RuntimeError):
    """A process that trains a cell with others is gone."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank)  # Pickle calls the class with this.
        self.rank = rank

    def __str__(self) -> str:
        return f"worker {self.rank} (counted from 0) of the cell died"


class RankLostError(RankDiedError, LostWithNodeError):
    """A process that trains a cell with others is gone together with its node."""


class Rank:
    """What runs in each actor."""

    def __init__(self, config: TrialConfig, rank: int) -> None:
        self._config = config
        self._rank = rank
        self._group = ExitStack()

    def open(self) -> tuple[str, int]:
        """Open the store in which the ranks meet, on rank 0; return its host and port."""
        host, size = ray.util.get_node_ip_address(), self._config.workers
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Without a socket of ours the store would listen on all interfaces.
        listening = socket.create_server((host, 0), family=family)
        port = listening.getsockname()[1]
        self._store = TCPStore(
            host,
            port,
            size,
            is_master=True,
            wait_for_workers=False,
            timeout=PATIENCE,
            master_listen_fd=listening.detach(),
        )
        return host, port

    def join(self, host: str, port: int) -> None:
        """Join the other ranks and get ready to train."""
        size = self._config.workers
        if ip_address(host).is_loopback:
            for library in ("GLOO", "NCCL"):  # They would look up the machine's name.
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", LOOPBACK)
        if self._rank > 0:
            self._store = TCPStore(host, port, size, timeout=PATIENCE)
        device = device_for(self._config.gpu)
        ranks = self._group.enter_context(joined(self._store, self._rank, size, device))
        self._training = CellTraining(self._config, ranks)

    def step(self) -> TrialReport:
        """Train until there is something to report."""
        return self._training.step()

    def __repr__(self) -> str:
        return f"{self._config.cell_id}, worker {self._rank}"


class RankGroup:
    """Does what `CellTraining` does, in `config.workers` processes.

    Args:
        config: The trial's configuration.
    """

    def __init__(self, config: TrialConfig) -> None:
        self._config = config
        self._actors: list[Any] = []

    def step(self) -> TrialReport:
        """Train until there is something to report; the first step starts the processes.

        Raises:
            RankDiedError: A process is gone.
        """
        if not self._actors:
            self._start()
        report: TrialReport = self._on_all("step")[0]
        return report

    def close(self) -> None:
        """End the processes."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _start(self) -> None:
        group = ray.util.get_current_placement_group()
        actor = ray.remote(num_cpus=self._config.cpu, num_gpus=self._config.gpu)(Rank)
        for rank in range(self._config.workers):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            started = actor.options(scheduling_strategy=place).remote(self._config, rank)
            self._actors.append(started)
        self._on_all("join", *ray.get(self._actors[0].open.remote()))

    def _on_all(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of all ranks; return their results, or raise as soon as one fails."""
        calls = [getattr(actor, method).remote(*arguments) for actor in self._actors]
        pending = calls
        while pending:
            done, pending = ray.wait(pending)
            error = _error(done[0])
            if error is not None:
                raise _death(calls) or error
        return ray.get(calls)


def _death(calls: list[Any]) -> RankDiedError | None:
    """Return the death of one of the ranks that were called, if that is the cause of an error."""
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=SECONDS_TO_NOTICE_A_DEATH)
    for call in done:
        error = _error(call)
        if isinstance(error, RayActorError):
            kind = RankLostError if is_lost_with_node(error) else RankDiedError
            return kind(calls.index(call))
    return None


def _error(call: Any) -> Exception | None:
    try:
        ray.get(call)
    except Exception as error:
        return error
    return None
