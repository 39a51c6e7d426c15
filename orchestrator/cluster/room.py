"""Reports that a study waits because others hold the cluster: Ray lets it wait without a word."""

import time
from collections.abc import Callable, Mapping

import ray

IDLE_SECONDS = 20.0
"""How long nothing of the study has to run: an idle process is taken at once, a new one starts in
under ten seconds."""
SECONDS_BETWEEN_LOOKS = 1.0


class RoomWatch:
    """Reports, once each time that it happens, that no cell fits because others hold the cluster.

    Args:
        where: The cluster, as it is called in messages.
        needs: CPUs and GPUs that each waiting cell reserves, of all its workers together.
        runs: Returns whether anything of the study runs.
        say: Takes the line.
        free: Returns what nobody holds of the cluster, by kind of resource.
        total: Returns the same of all there is.
    """

    def __init__(
        self,
        where: str,
        needs: list[tuple[float, float]],
        runs: Callable[[], bool],
        say: Callable[[str], None],
        free: Callable[[], Mapping[str, float]] = ray.available_resources,
        total: Callable[[], Mapping[str, float]] = ray.cluster_resources,
    ) -> None:
        self._where = where
        self._cpus, self._gpus = min(needs, key=lambda need: need[::-1], default=(0.0, 0.0))
        self._runs = runs
        self._say = say
        self._free = free
        self._total = total
        self._looked = -SECONDS_BETWEEN_LOOKS
        self._idle_since: float | None = None
        self._said = False

    def look(self) -> None:
        """Report it if it is so; to be called over and over, and cheap then."""
        now = time.monotonic()
        if now - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        if self._runs():
            self._idle_since, self._said = None, False
        elif self._idle_since is None:
            self._idle_since = now
        elif not self._said and now - self._idle_since >= IDLE_SECONDS:
            self._report()

    def _report(self) -> None:
        free, total = self._free(), self._total()
        missing = [
            f"the smallest cell reserves {need:g} {kind}, {free.get(kind, 0.0):g} of "
            f"{total.get(kind, 0.0):g} are free"
            for kind, need in (("CPU", self._cpus), ("GPU", self._gpus))
            if need > free.get(kind, 0.0)
        ]
        if missing:
            self._said = True
            self._say(
                f"waiting for room on {self._where}: {'; '.join(missing)}; "
                "other jobs hold the rest, or a process of this study is starting"
            )
