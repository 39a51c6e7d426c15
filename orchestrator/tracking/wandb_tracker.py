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
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from orchestrator.storage.store import CellState, Store
from orchestrator.tracking.tracker import METRICS
from orchestrator.tracking.wandb_settings import WandbSettings
from trainables.files import DamagedFileError, read_sealed_json, write_sealed_json

WAITING_MESSAGES = 10_000
PATIENCE = 45.0
"""Seconds that the end of a launch waits for runs to be sent."""
TELLING = 3.0
"""Seconds of these after which the user is told."""
ENDS = (CellState.DONE, CellState.TRAINED, CellState.FAILED, CellState.INTERRUPTED)
OF_REPORT = ("step", "epoch_ended", *METRICS)
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
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
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
            [sys.executable, "-m", "orchestrator.tracking.wandb_process"],
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

    def reported(self, cell_id: str, report: Mapping[str, Any]) -> None:
        """Hand on a report."""
        told = {name: report[name] for name in OF_REPORT} | {"time": time.time()}
        self._send({"cell": cell_id, "report": told})

    def changed(self, cell_id: str, state: str) -> None:
        """Hand on the end of a cell."""
        if state in ENDS:
            self._send({"cell": cell_id, "state": str(state)})

    def _send(self, message: dict[str, Any] | None) -> None:
        if message is None or self._messages.qsize() < WAITING_MESSAGES:
            self._messages.put(message)
        elif not self._behind:
            self._behind = True
            self._note("W&B: too slow for this study; reports are left out there")

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
            self._note(f"W&B: its process ended with status {status}; the study goes on without")

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
                self._note(f"W&B: not all is sent. Send the rest with: {sync}")


def _token(store: Store) -> str:
    """Return what tells this store's runs from those of all others, also once it is moved."""
    file = store.path / "wandb.json"
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
    silent = {"PYTHONPATH": path, "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    return LIMITS | kept | silent
