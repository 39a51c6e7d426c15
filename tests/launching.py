"""Launches of studies as a user starts them, in processes that tests may disturb."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import yaml

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState

FULL_GRID = Path(__file__).parents[1] / "experiments" / "full_grid.py"
PATIENCE = 400.0
"""Seconds that a test waits for anything: many times what a busy machine takes."""

LISTENING = "0A"
"""State of a socket in `/proc/net/tcp`."""

TRAINERS = r"FinetuneTrainable|\S+\.train"
"""How the titles of processes go on that train cells: idle, and within a step of a cell."""

BRIEFLY = {"batch_sizes": [1, 8], "rounds": 7, "seconds": 0.01}
"""How tests measure speed: as a rule a measurement goes on while it is uncertain."""

ONE_STEP_EPOCH = {
    "host": "digits_{capacity}_patch4_32",
    "image_size": 32,
    "crop_ratio": 1.0,
    "epochs": 1,
    "warmup_epochs": 0,
    "batch_size": 512,
}
"""A recipe that trains for as short as it goes."""

STUDY: dict[str, Any] = {
    "name": "faults",
    "defaults": {"reduction_loc": [3, 6, 9], "recipe": "everything"},
    "grids": [
        {"dataset": ["digits"], "capacity": ["tiny"], "method": ["deit"]},
        {
            "dataset": ["digits"],
            "capacity": ["tiny"],
            "method": ["dynamicvit", "dpcknn"],  # Both draw in training.
            "keep_rate": [0.7],
        },
    ],
    # All that draws random numbers or averages is on: resuming has to repeat it exactly.
    "recipes": {
        "everything": {
            "host": "digits_{capacity}_patch4_32",
            "image_size": 24,
            "epochs": 2,
            "warmup_epochs": 1,
            "batch_size": 48,
            "accumulation": 2,
            "lr": 0.001,
            "lr_reference_batch": 96,
            "ema_decay": 0.9,
            "loader_workers": 2,
            "checkpoint_minutes": 1e-6,  # A state and a report after every step.
        }
    },
    "measure": BRIEFLY,
}
"""Three cells of 30 steps each."""


def layered(**faults: str) -> dict[str, str]:
    """Return the environment of processes under the fault layer, with these faults."""
    layer = str(Path(__file__).parent / "fault_layer")
    return {"PYTHONPATH": os.pathsep.join([layer, os.environ.get("PYTHONPATH", "")]), **faults}


class Gate:
    """Holds up the training of cells at a step, however fast the machine is.

    A cell behind a closed gate has reported that step and no later one, and is in mid-epoch unless
    an epoch ends within the next two steps.

    Args:
        file: Its place; there is none while the gate is open.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.faults = {"FAULT_GATE": str(file)}
        """What processes under the fault layer need to know."""
        self.env = layered(**self.faults)

    def close(self, after: int, cells: str = "*") -> None:
        """Let cells of a glob train up to this step and no further."""
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_text(f"{after} {cells}")
        new.replace(self._file)  # Processes read it at any time.

    def open(self) -> None:
        """Let all go on."""
        self._file.unlink()


def wait_until(holds: Callable[[], object], otherwise: Callable[[], str] = str) -> None:
    """Return when something holds; fail with the words of `otherwise` if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.05)


class Launch:
    """A launch in a process group of its own, as a terminal would start it."""

    def __init__(
        self,
        storage: Path,
        *arguments: str,
        study: dict = STUDY,
        stages: str = "train,evaluate",
        env: dict[str, str] | None = None,
    ) -> None:
        file = storage / "study.yaml"
        file.write_text(yaml.safe_dump(study))
        self.store = Store(storage / study["name"])
        self.output = storage / f"console-{time.monotonic_ns()}.txt"
        command = [sys.executable, FULL_GRID, "--study", file, "--storage", storage]
        with self.output.open("w") as console:
            self.process = subprocess.Popen(
                [*command, "--stages", stages, *arguments],
                stdout=console,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
                start_new_session=True,
            )

    @property
    def console(self) -> str:
        """What the launch has printed so far."""
        return self.output.read_text()

    def end(self, status: int | None = None) -> int:
        """Wait for the launch and return its exit status, which must be `status` if given."""
        ended = self.process.wait(timeout=PATIENCE)
        assert status in (None, ended), f"ended with {ended}, not {status}:\n{self.console}"
        return ended

    def wait_until(self, holds: Callable[[], object]) -> None:
        """Return when something holds while the launch goes on."""

        def goes_on() -> object:
            if held := holds():
                return held
            assert self.process.poll() is None, self.console
            return False

        wait_until(goes_on, lambda: self.console)

    def wait_for_reports(self, count: int, cells: str = "*") -> None:
        """Return when there are `count` reports with a loss, of all cells of a glob together."""
        self.wait_until(lambda: self.reports(cells) >= count)

    def wait_for_step(self, step: int, cells: str = "*") -> None:
        """Return when one cell of a glob has reported this step."""
        self.wait_until(lambda: self.cells_at(step, cells))

    def cells_at(self, step: int, cells: str = "*") -> list[str]:
        """Return the cells of a glob that have reported this step."""
        logs = self.store.path.glob(f"cells/{cells}/log.jsonl")
        report = f'"step": {step},'
        return [log.parent.name for log in logs if report in log.read_text(errors="replace")]

    def wait_for_loaders(self) -> list[int]:
        """Return the processes that load images for cells, once there are some."""
        self.wait_until(lambda: children(self.trainers()))
        return children(self.trainers())

    def is_stopping(self) -> bool:
        """Tell whether the driver has told its cells to save and end."""
        return any(self.store.path.glob(f"stop-*-{self.process.pid}"))

    def reports(self, cells: str = "*") -> int:
        """Return how many reports with a loss there are, one a step."""
        return sum('"loss"' in line for line in self.log(cells))

    def trainers(self) -> list[int]:
        """Return the processes that train cells on a Ray of this launch's own."""
        return training_processes(self.process.pid)

    def named(self, program: str) -> list[int]:
        """Return the processes of a program that the launch has started itself."""
        _, titles = processes()
        return [p for p in children([self.process.pid]) if runs(titles.get(p, b""), program)]

    def log(self, cells: str = "*") -> list[str]:
        """Return the lines of the logs of all cells of a glob."""
        logs = self.store.path.glob(f"cells/{cells}/log.jsonl")
        return [line for log in logs for line in log.read_text(errors="replace").splitlines()]

    def events(self, event: str, cells: str = "*") -> list[dict[str, Any]]:
        """Return the entries of one kind of event."""
        entries = (json.loads(line) for line in self.log(cells) if f'"{event}"' in line)
        return [entry for entry in entries if entry.get("event") == event]

    def weights(self) -> dict[str, bytes]:
        """Return the bytes of every cell's best weights."""
        paths = self.store.path.glob("cells/*/best/model.safetensors")
        return {path.parts[-3]: path.read_bytes() for path in paths}

    def results(self) -> dict[str, tuple[int, bytes]]:
        """Return when each finished cell was finished, in nanoseconds, and with what."""
        paths = self.store.path.glob("cells/*/result.json")
        return {path.parent.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    def steps(self) -> dict[str, list[int]]:
        """Return the steps at which every cell's reports with a loss stand, in their order."""
        reports = {
            path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
            for path in self.store.path.glob("cells/*/log.jsonl")
        }
        return {
            cell: [report["step"] for report in entries if report.get("loss") is not None]
            for cell, entries in reports.items()
        }


def assert_resumed(
    storage: Path,
    undisturbed: dict[str, bytes],
    finished: dict[str, tuple[int, bytes]],
    *arguments: str,
    study: dict = STUDY,
) -> Launch:
    """Launch again: all must end as undisturbed, and what was finished stay untouched."""
    again = Launch(storage, *arguments, study=study)
    again.end(0)
    assert_whole(again, undisturbed, finished)
    return again


def assert_whole(
    launch: Launch, undisturbed: dict[str, bytes], finished: dict[str, tuple[int, bytes]]
) -> None:
    """All cells must be done as undisturbed; what was finished is neither lost nor repeated."""
    assert launch.weights() == undisturbed
    results = launch.results()
    assert {cell: results[cell] for cell in finished} == finished
    states = {launch.store.cell(cell).state() for cell in launch.store.cell_ids()}
    assert states == {CellState.DONE}


def assert_tidy(launch: Launch) -> None:
    """A launch in which something failed still tells it in a few lines, and without traces."""
    assert "Traceback" not in launch.console
    assert len(launch.console.splitlines()) < 20, launch.console


def training_processes(root: int, actor: str = TRAINERS) -> list[int]:
    """Return the processes below another that train cells, by the titles that Ray gives them."""
    parents, titles = processes()

    def is_below(process: int) -> bool:
        return process == root or (process in parents and is_below(parents[process]))

    # Processes that load images are forked from these, and keep their title.
    title = re.compile(f"ray::({actor})".encode())
    trainables = {process for process, words in titles.items() if title.match(words)}
    return [p for p in trainables if is_below(p) and parents[p] not in trainables]


def runs(title: bytes, program: str) -> bool:
    """Tell whether a process with this title runs a program."""
    return title.split(b"\0")[0].endswith(program.encode())


def listening(root: int) -> dict[IPv4Address | IPv6Address, set[str]]:
    """Return the addresses at which a process and all below it listen, with their titles."""
    parents, titles = processes()
    sockets: dict[str, int] = {}
    new = {root}
    while new:
        for process in new:
            with suppress(OSError):  # It has ended.
                for link in Path(f"/proc/{process}/fd").iterdir():
                    with suppress(OSError):
                        sockets[os.readlink(link)] = process
        new = {process for process, parent in parents.items() if parent in new}
    found: dict[IPv4Address | IPv6Address, set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            process = sockets.get(f"socket:[{inode}]")
            if state == LISTENING and process:
                title = titles.get(process, b"").replace(b"\0", b" ").decode()
                found.setdefault(_address(local.partition(":")[0]), set()).add(title)
    return found


def _address(hexadecimal: str) -> IPv4Address | IPv6Address:
    """Return the address that the kernel shows as words in this machine's byte order."""
    words = (hexadecimal[i : i + 8] for i in range(0, len(hexadecimal), 8))
    address = ip_address(b"".join(bytes.fromhex(word)[::-1] for word in words))
    return getattr(address, "ipv4_mapped", None) or address


def children(of: Iterable[int]) -> list[int]:
    """Return the processes that these have started."""
    parents, _ = processes()
    started = set(of)
    return [process for process, parent in parents.items() if parent in started]


def processes() -> tuple[dict[int, int], dict[int, bytes]]:
    """Return the parent and the command line of every process."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents, titles


def assert_gone(ended: Iterable[int]) -> None:
    """Processes end by themselves soon after the one that they worked for; none is left."""
    wait_until(lambda: not [p for p in ended if Path(f"/proc/{p}").exists()])
