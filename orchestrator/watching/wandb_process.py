"""The process that speaks to W&B for a launch, so that whatever W&B does holds up no cell.

`WandbTracker` runs it as `python -m orchestrator.watching.wandb_process`. The first line on stdin
says where runs go, each further one is a report of a cell or the state in which it ended; the end
of stdin, also by the driver's death, ends all runs. Each line on stdout is a note for the user.
"""

import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import wandb

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState, StoredCell
from orchestrator.watching.tracker import LoggedReport, curve, metrics_of
from orchestrator.watching.wandb_tracker import DISCREET, Message
from trainables.storage.paths import store_path

FINISHING_AT_ONCE = 16
LAST_STEP = "last-step"
"""File in W&B's folder of a run: the newest step that was logged there."""

Mode = Literal["online", "offline"]
ENDED_WELL = (CellState.DONE, CellState.TRAINED)


class CellRun:
    """A cell's run, from the store's log up to date when it is opened.

    Args:
        stored: The cell in the store.
        run_id: The run's id in its project.
        opening: What `WandbTracker` says of this launch.
        mode: `online` or `offline`.
    """

    def __init__(self, stored: StoredCell, run_id: str, opening: Message, mode: Mode) -> None:
        cell = stored.cell()
        self._run = wandb.init(
            project=opening["project"],
            entity=opening["entity"],
            id=run_id,
            name=cell.id,
            group=opening["study"],
            tags=[cell.dataset, cell.method, cell.capacity, *opening["tags"]],
            config=cell.model_dump(mode="json") | {"study": opening["study"]} | opening["record"],
            dir=opening["folder"],
            mode=mode,
            reinit="create_new",
            resume="allow",
            settings=wandb.Settings(**DISCREET),
        )
        others = Path(opening["folder"], "wandb")
        self._folder = Path(self._run.settings.sync_dir)
        if mode == "online":
            self._next = self._run.starting_step
            # What they hold is sent from the store's log, now and as far as the server lacks it.
            for kept in others.glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"):
                kept.with_name(f"{kept.name}.synced").touch()
        else:
            earlier = others.glob(f"*run-*-{run_id}/{LAST_STEP}")
            self._next = max((int(file.read_text()) + 1 for file in earlier), default=0)
        for logged in curve(stored.log()):
            self.log(logged)

    def log(self, logged: LoggedReport) -> None:
        """Log a report's metrics at its step, unless that step was logged before."""
        report, metrics = logged.report, metrics_of(logged.report)
        if metrics is None or report.step < self._next:
            return
        del metrics["loss_terms"]
        terms = {f"loss_terms/{name}": x for name, x in (report.loss_terms or {}).items()}
        row = {name: value for name, value in (metrics | terms).items() if value is not None}
        self._run.log(row | {"_timestamp": logged.time}, step=report.step, commit=True)
        self._next = report.step + 1
        (self._folder / LAST_STEP).write_text(str(report.step))

    def finish(self, state: str, evaluation: Mapping[str, object]) -> None:
        """End the run as the cell ended; one that can go on is preempted."""
        self._run.summary.update({f"eval/{name}": value for name, value in evaluation.items()})
        if state not in (*ENDED_WELL, CellState.FAILED):
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if state in ENDED_WELL else 1)


class Publisher:
    """Keeps a run for every cell that reports.

    Args:
        opening: What `WandbTracker` says of this launch.
    """

    def __init__(self, opening: Message) -> None:
        self._opening = opening
        self._store = Store(store_path(opening["store"]))
        self._sync = f"wandb sync {Path(opening['folder'], 'wandb')}"
        self._mode: Mode | None = opening["mode"]
        """None once W&B has failed offline, too."""
        self._runs: dict[str, CellRun] = {}
        self._finishing = ThreadPoolExecutor(FINISHING_AT_ONCE)
        self._incomplete = False

    def take(self, message: Message) -> None:
        """Do what a message of `WandbTracker` asks for."""
        cell_id = message["cell"]
        try:
            run = self._runs.get(cell_id) or self._opened(cell_id)
            if run is None:
                return
            if "report" in message:
                for logged in curve([message["report"]]):
                    run.log(logged)
            else:
                self._end(cell_id, message["state"])
        except Exception as error:  # Whatever it is, the study goes on.
            self._runs.pop(cell_id, None)
            self._give_up(error)

    def end(self) -> None:
        """End all runs and wait until they are sent, as far as that goes."""
        for cell_id in list(self._runs):
            self._end(cell_id, CellState.INTERRUPTED)
        self._finishing.shutdown()

    def _opened(self, cell_id: str) -> CellRun | None:
        """Return a run for a cell, None where it has nothing to show or W&B does not work."""
        stored = self._store.cell(cell_id)
        while self._mode and stored.last_report():
            try:
                run = CellRun(stored, self._run_id(cell_id), self._opening, self._mode)
            except Exception as error:  # Whatever it is, the study goes on.
                self._give_up(error)
            else:
                self._runs[cell_id] = run
                return run
        return None

    def _end(self, cell_id: str, state: str) -> None:
        evaluation = self._store.cell(cell_id).evaluation() if state == CellState.DONE else None
        run = self._runs.pop(cell_id)
        self._finishing.submit(self._finish, run, state, evaluation or {})

    def _finish(self, run: CellRun, state: str, evaluation: Mapping[str, object]) -> None:
        try:
            run.finish(state, evaluation)
        except Exception as error:  # Whatever it is, the study goes on.
            if not self._incomplete:
                self._incomplete = True
                say(f"{first_line(error)} Send the rest with: {self._sync} --include-online")

    def _give_up(self, error: Exception) -> None:
        """Go on offline, where even that fails without W&B."""
        if self._mode == "online":
            self._mode = "offline"
            say(f"{first_line(error)}; continuing offline; send it later with: {self._sync}")
            self.end()
            # Only a new service takes the ids of runs that could not be opened.
            wandb.teardown()
            self._finishing = ThreadPoolExecutor(FINISHING_AT_ONCE)
        elif self._mode == "offline":
            self._mode = None
            self._runs.clear()
            say(f"{first_line(error)}; this launch logs nothing more there")

    def _run_id(self, cell_id: str) -> str:
        """Return an id that is unique in a project and has no character that W&B refuses."""
        unique = hashlib.sha256(f"{self._opening['token']}/{cell_id}".encode()).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9._-]', '_', cell_id)[:50]}-{unique[:12]}"


def first_line(error: Exception) -> str:
    """Return what went wrong in one line, without the key."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    key = os.environ.get("WANDB_API_KEY")
    return line.replace(key, "...") if key else line


def say(text: str) -> None:
    """Tell the user."""
    sys.stdout.write(f"W&B: {text}\n")
    sys.stdout.flush()


def follow(lines: Iterable[str]) -> None:
    """Publish what the lines say, then end."""
    messages = map(json.loads, lines)
    publisher = Publisher(next(messages))
    for message in messages:
        publisher.take(message)
    publisher.end()


if __name__ == "__main__":
    # They are meant for the driver, whose end is the end of stdin.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    follow(sys.stdin)
