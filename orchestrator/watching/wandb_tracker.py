"""W&B runs of the cells: the driver's end of the process that speaks to W&B."""

import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from orchestrator.errors import not_one_of
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from trainables.cell.report import Report
from trainables.storage import layout
from trainables.storage.files import DamagedFileError, read_sealed_json, write_sealed_json

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}
OFF = "disabled"
PROJECT = "tokensweep"
TRUE = ("1", "true", "yes", "on")

Message = dict[str, Any]
"""A line to the process, as JSON."""

DISCREET: Message = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "finish_timeout_raises": True,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""Settings under which W&B sees what is tracked, and neither the process nor its machine."""


@dataclass(frozen=True)
class WandbSettings:
    """Where runs go."""

    mode: str
    """`online` or `offline`."""
    project: str
    entity: str | None
    """None lets the server choose that of the key."""
    url: str
    folder: Path
    """Holds `wandb/`, where W&B keeps its runs."""
    tags: tuple[str, ...]
    """What the user wants on every run."""

    def __str__(self) -> str:
        owner = f"{self.entity}/" if self.entity else ""
        if self.mode == "online":
            return f"W&B: online, project {owner}{self.project} at {self.url}"
        return f"W&B: offline; send the runs with: wandb sync {self.folder / 'wandb'}"


def wandb_settings(environment: Mapping[str, str], folder: Path) -> WandbSettings | None:
    """Return what the variables ask for, None where they ask for nothing.

    They ask for it with `WANDB_MODE=online` or `offline`, or, where that is not set, with
    `WANDB_API_KEY`.

    Args:
        environment: The variables.
        folder: Where W&B keeps its runs unless `WANDB_DIR` says so.

    Raises:
        UserError: `WANDB_MODE` is none that there is.
    """
    given = environment.get("WANDB_MODE") or ("online" if environment.get("WANDB_API_KEY") else OFF)
    if given not in (*MODES, OFF):
        raise not_one_of("WANDB_MODE", given, (*MODES, OFF))
    if given == OFF or environment.get("WANDB_DISABLED", "").lower() in TRUE:
        return None
    return WandbSettings(
        mode=MODES[given],
        project=environment.get("WANDB_PROJECT") or PROJECT,
        entity=environment.get("WANDB_ENTITY") or None,
        url=_without_login(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai"),
        folder=Path(environment.get("WANDB_DIR") or folder).absolute(),
        tags=tuple(filter(None, environment.get("WANDB_TAGS", "").split(","))),
    )


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


WAITING_MESSAGES = 10_000
PATIENCE = 45.0
"""Seconds that the end of a launch waits for runs to be sent."""
TELLING = 3.0
"""Seconds of these after which the user is told."""
ENDS = (CellState.DONE, CellState.TRAINED, CellState.FAILED, CellState.INTERRUPTED)
LIMITS = {"WANDB_INIT_TIMEOUT": "20", "WANDB_FINISH_TIMEOUT": "30"}
"""Seconds that W&B may take to open a run and to send what is left of it, unless set."""
FOREIGN = ("WANDB_RESUME", "WANDB_RUN_ID", "WANDB_SERVICE", "WANDB_SWEEP_ID")
"""What would make W&B take a cell for a part of some other run."""


class WandbTracker:
    """Hands reports and ends of cells to the process; a context manager that ends it.

    Args:
        settings: Where runs go.
        store: The study's store.
        study: The study's name, by which runs are grouped.
        note: Told, in a line, of whatever goes wrong; also from another thread.
    """

    def __init__(
        self, settings: WandbSettings, store: Store, study: str, note: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._note = note
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._behind = False
        record = {name: store.read_study()[name] for name in ("versions", "git_commit")}
        self._messages.put(
            {
                **asdict(settings),
                "folder": str(settings.folder),
                "store": str(store.path.absolute()),
                "study": study,
                "token": _token(store),
                "record": record,
            }
        )

    def __enter__(self) -> Self:
        self._note(str(self._settings))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.watching.wandb_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver.
        )
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._feed, self._hear)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        try:
            self._send(None)
            self._wait()
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for thread in self._threads:
                thread.join()

    def reported(self, cell_id: str, report: Report) -> None:
        """Hand on a report."""
        self._send({"cell": cell_id, "report": report.entry() | {"time": time.time()}})

    def changed(self, cell_id: str, state: str) -> None:
        """Hand on the end of a cell."""
        if state in ENDS:
            self._send({"cell": cell_id, "state": str(state)})

    def _send(self, message: Message | None) -> None:
        if message is None or self._messages.qsize() < WAITING_MESSAGES:
            self._messages.put(message)
        elif not self._behind:
            self._behind = True
            self._note("W&B: too slow for this study; some reports are not sent")

    def _feed(self) -> None:
        """Write messages to the process, for which only this thread waits."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(OSError):  # It has ended, which the other thread tells.
            while message := self._messages.get():
                stdin.write(json.dumps(message) + "\n")
                stdin.flush()
        with suppress(OSError):
            stdin.close()

    def _hear(self) -> None:
        """Pass on what the process says."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._note(line.rstrip())
        if status := self._process.wait():
            self._note(
                f"W&B: its process ended with status {status}; the study continues without it"
            )

    def _wait(self) -> None:
        """Let the process send what is left, for some time."""
        try:
            self._process.wait(TELLING)
        except subprocess.TimeoutExpired:
            self._note("W&B: sending what is left")
            try:
                self._process.wait(PATIENCE - TELLING)
            except subprocess.TimeoutExpired:
                sync = f"wandb sync {self._settings.folder / 'wandb'} --include-online"
                self._note(f"W&B: some of it is not sent. Send the rest with: {sync}")


def _token(store: Store) -> str:
    """Return what tells this store's runs from those of all others, also once it is moved."""
    file = layout.WANDB_TOKEN.below(store.path)
    try:
        record = read_sealed_json(file)
    except DamagedFileError:
        record = None
    if record is None:
        record = {"token": secrets.token_hex(8)}
        write_sealed_json(file, record)
    return str(record["token"])


def _environment() -> dict[str, str]:
    """Return the variables of the process: this one's, but silent and about nothing else."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), kept.get("PYTHONPATH"))))
    # `-m` would put the working folder first, where a module of the user may have the same name.
    safe = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    silent = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    return LIMITS | kept | safe | silent
