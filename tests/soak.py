"""Random faults, one upon the other, into a small study on a cluster of several nodes.

By hand: `python tests/soak.py`. Environment variables say how many faults to inject (FAULTS) and
for how many seconds at most (FAULT_SECONDS); FAULT_SEED repeats the draws of an earlier soak. At
the end the study has to be done, bit for bit as if nobody had disturbed it.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from damage import damage
from launching import Launch, assert_whole, layered, wait_until
from local_cluster import LocalCluster, Node

from orchestrator.interrupts import ONE_REQUEST_SECONDS

FAULTS = 100
SECONDS = 420.0
"""No fault is injected later than that; what is damaged then still has to heal."""

NOT_READ = {"tune", "driver.lock"}
TRAINED_AGAIN = {"best", "result.json", "attempts.json"}
"""Where damage is, so that the cell has to be trained again."""


class Soak:
    """A study under faults, and what they have cost.

    Args:
        cluster: Two nodes that train, under the fault layer.
        storage: Where the study's store is.
        seed: Of all draws.
    """

    def __init__(self, cluster: LocalCluster, storage: Path, seed: int) -> None:
        self._cluster = cluster
        self._storage = storage
        self._draw = random.Random(seed)
        self._expected: dict[str, tuple[int, bytes]] = {}
        """Results as they were last seen."""
        self._damaged: dict[str, tuple[int, bytes] | None] = {}
        """Of the cells that have to be trained again, until they are."""
        self.injected: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        """Of those the ones that are gone or were made again, by the fault that came before."""
        self.launches = 0
        self._launch()
        self._faults = {
            self._kill_worker: 30,
            self._lose_node: 7,
            self._kill_raylet: 7,
            self._kill_driver: 5,
            self._stop_driver: 4,
            self._stop_driver_now: 3,
            self._disturb_storage: 8,
            self._damage_file: 32,
        }

    def inject(self) -> str:
        """Wait until the study has gone on a little, and disturb it; return how."""
        self._go_on()
        (fault,) = self._draw.choices(list(self._faults), list(self._faults.values()))
        name = fault.__name__.strip("_").replace("_", " ")
        detail = fault()
        self.injected[name] += 1
        self._note_results(name)
        return f"{name} {detail or ''}".strip()

    def end(self) -> Launch:
        """Let the study finish, which heals whatever is still damaged; return the last launch."""
        self._end_launch()
        for _ in range(2):  # A launch finds what was damaged before it began.
            self._launch()
            self._end_launch()
        self._note_results("end")
        return self.launch

    def table(self) -> str:
        """Return the faults by kind, and what they cost."""
        rows = [f"{name:20}{n:8}{self.lost[name]:14}" for name, n in self.injected.most_common()]
        return "\n".join(["fault               injected  results lost", *rows, ""])

    def _launch(self) -> None:
        self.launch = self._cluster.launch(self._storage)
        self.launches += 1

    def _end_launch(self) -> None:
        self.launch.end()
        assert "Traceback" not in self.launch.console, self.launch.console

    def _go_on(self) -> None:
        """Return when there is something to disturb: a cell has reported, or nothing is left."""
        goal = self.launch.reports() + self._draw.randint(1, 3)
        while not (self.launch.reports() >= goal and self._seen_trainers()):
            if self._has_ended():
                self._end_launch()
                if self.launch.results():  # Or nothing might be left to do.
                    path = self._damage_file("cells/*/best/*")
                    self.injected["damage file"] += 1
                    sys.stdout.write(f"   between launches: damage file {path}\n")
                self._launch()
                goal = self.launch.reports() + 1
            time.sleep(0.1)

    def _has_ended(self) -> bool:
        return self.launch.process.poll() is not None

    def _seen_trainers(self) -> list[int]:
        self._trainers = self._cluster.trainers()
        return self._trainers

    def _note_results(self, after: str) -> None:
        """Count the results that are gone or made again without a reason."""
        now = self.launch.results()
        changed = {cell for cell, result in self._expected.items() if now.get(cell) != result}
        self.lost[after] += len(changed - set(self._damaged))
        again = [cell for cell, result in self._damaged.items() if now.get(cell, result) != result]
        for cell in again:
            del self._damaged[cell]
        self._expected = now

    def _kill_worker(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # It may just have ended by itself.
            os.kill(self._draw.choice(self._trainers), signal.SIGKILL)

    def _lose_node(self) -> None:
        self._cluster.lose(self._node())
        self._cluster.add_node()

    def _kill_raylet(self) -> None:
        node = self._node()
        node.kill_raylet()
        self._cluster.add_node()
        self._cluster.lose(node)

    def _node(self) -> Node:
        return self._draw.choice(self._cluster.nodes)

    def _kill_driver(self) -> None:
        self.launch.process.kill()
        self.launch.end()
        self._launch()

    def _stop_driver(self) -> None:
        self.launch.process.send_signal(self._draw.choice([signal.SIGINT, signal.SIGTERM]))
        self._end_launch()
        self._launch()

    def _stop_driver_now(self) -> None:
        self.launch.process.send_signal(signal.SIGTERM)
        wait_until(lambda: self._has_ended() or self.launch.is_stopping())
        time.sleep(ONE_REQUEST_SECONDS)
        self.launch.process.send_signal(signal.SIGTERM)
        self._end_launch()
        self._launch()

    def _disturb_storage(self) -> str:
        """Let nothing be made durable for a moment."""
        error = self._draw.choice(["EIO", "ENOSPC", "ESTALE"])
        flag = flag_of(self._storage)
        flag.write_text(error)
        time.sleep(self._draw.uniform(0.2, 2.0))
        flag.unlink()
        return error

    def _damage_file(self, files: str = "**/*") -> str:
        """Damage any file of the store, but for those that nothing reads."""
        store = self.launch.store.path
        path = self._draw.choice(
            sorted(
                path
                for path in store.glob(files)
                if path.is_file() and path.stat().st_size and not NOT_READ & set(path.parts)
            )
        )
        name, done = path.relative_to(store), damage(path, self._draw)
        if name.parts[0] == "cells" and {*name.parts} & TRAINED_AGAIN:
            self._damaged[name.parts[1]] = self.launch.results().get(name.parts[1])
        return f"{name}: {done}"


def flag_of(storage: Path) -> Path:
    """Return the file that makes the fault layer disturb a storage."""
    return storage / "disturbed"


def environment(storage: Path, seed: int) -> dict[str, str]:
    """Return what puts a fault layer under the nodes and the launches: a wild clock, too."""
    return layered(FAULT_CLOCK=str(seed), FAULT_STORAGE=str(flag_of(storage)))


def soak(storage: Path, undisturbed: dict[str, bytes]) -> None:
    """Run a soak, telling every fault; fail unless the weights come out as if undisturbed."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 2**32))
    faults = int(os.environ.get("FAULTS", FAULTS))
    seconds = float(os.environ.get("FAULT_SECONDS", SECONDS))
    sys.stdout.write(f"{faults} faults; repeat the same draws with FAULT_SEED={seed}\n")
    started = time.monotonic()
    with LocalCluster(environment(storage, seed)) as cluster:
        for _ in range(2):
            cluster.add_node()
        soaked = Soak(cluster, storage, seed)
        while soaked.injected.total() < faults and time.monotonic() - started < seconds:
            fault = soaked.inject()
            clock = f"{time.monotonic() - started:5.0f} s"
            sys.stdout.write(f"{clock} {soaked.injected.total():4d} {fault}\n")
            sys.stdout.flush()
        last = soaked.end()
    weights = last.weights()
    wrong = sum(weights.get(cell) != whole for cell, whole in undisturbed.items())
    sys.stdout.write(
        f"{soaked.table()}{soaked.launches} launches, {time.monotonic() - started:.0f} s; "
        f"cells whose weights differ at the end: {wrong} of {len(undisturbed)}\n"
    )
    assert not soaked.lost.total()
    assert last.process.returncode == 0, last.console
    assert_whole(last, undisturbed, {})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        storages = [Path(folder, name) for name in ("undisturbed", "soaked")]
        for storage in storages:
            storage.mkdir()
        launch = Launch(storages[0])
        launch.end(0)
        soak(storages[1], launch.weights())
