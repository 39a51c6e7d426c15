"""TensorBoard events and a CSV file in every cell's folder, written by Tune's own loggers.

    CELL_ID/events.out.tfevents.*    scalars by optimiser step, and the cell as hyperparameters
            progress.csv             one row a report

Both are written anew, from the cell's log, when a trial of the cell begins to report, and are
appended to after that: one file and one curve, however often the cell was interrupted. An object
store cannot be appended to: it gets both files anew every minute and when the trial ends.
"""

import json
import math
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

from ray.tune.logger import CSVLoggerCallback, TBXLoggerCallback
from ray.tune.result import TRAINING_ITERATION
from ray.tune.utils import flatten_dict
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from orchestrator.storage.store import Store, StoredCell
from orchestrator.tracking.tracker import curve, metrics_of
from trainables.files import write_atomic

EVENTS = "events.out.tfevents.*"
TABLE = "progress.csv"
PUBLISH_SECONDS = 60.0
"""How old the files in an object store may be while a cell reports."""


class CellLogs:
    """Keeps the logs of all cells; a storage that cannot be written costs logs, never a cell.

    A context manager, which in the end closes whatever is still open.

    Args:
        store: The study's store.
        note: Told once if the logs cannot be written.
    """

    def __init__(self, store: Store, note: Callable[[str], None]) -> None:
        self._store = store
        self._note = note
        self._told = False
        self._open: dict[str, _CellLog] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        for cell_id in list(self._open):
            self._end(cell_id)

    def reported(self, cell_id: str, report: Mapping[str, Any]) -> None:
        """Append a report; the first of a trial and one that goes back begin the logs anew."""
        if metrics_of(report) is None:
            return
        try:
            log = self._open.get(cell_id)
            if log is None or report["step"] <= log.step:
                self._end(cell_id)
                log = self._open[cell_id] = _CellLog(self._store.cell(cell_id))
                log.begin()
            if report["step"] > log.step:
                log.append({**report, "time": time.time()})
            log.publish(PUBLISH_SECONDS)
        except OSError as error:
            self._tell(cell_id, error)
            self._end(cell_id)

    def changed(self, cell_id: str, state: str) -> None:
        """End the logs of a cell that does not train any more, or begins to train again."""
        self._end(cell_id)

    def _end(self, cell_id: str) -> None:
        try:
            if log := self._open.pop(cell_id, None):
                log.end()
        except OSError as error:
            self._tell(cell_id, error)

    def _tell(self, cell_id: str, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._note(f"{cell_id}: TensorBoard and CSV logs cannot be written: {error}")


@dataclass(eq=False)
class _LoggedTrial:
    """What Tune's loggers ask of a trial."""

    local_path: Path
    evaluated_params: dict[str, Any]
    checkpoint: None = None

    def init_local_path(self) -> None:
        """Do nothing: the cell's folder is there."""


class _CellLog:
    """The two files of a cell, from its first report to its last."""

    def __init__(self, stored: StoredCell) -> None:
        self._stored = stored
        hyperparameters = flatten_dict(stored.cell().model_dump(mode="json"), delimiter="/")
        plain = {name: _plain(value) for name, value in hyperparameters.items()}
        self._folder = _folder_for(stored)
        self._published = -math.inf
        self._trial = _LoggedTrial(self._folder, plain)
        self._loggers = (_EventsLogger(), CSVLoggerCallback())
        self.step = -1
        """Of the newest report that was logged."""

    def begin(self) -> None:
        """Write what the cell's log has instead of what the files had."""
        for old in (*self._stored.path.glob(EVENTS), self._stored.path / TABLE):
            old.unlink(missing_ok=True)
        for report in curve(self._stored.log()):
            self.append(report)

    def append(self, report: Mapping[str, Any]) -> None:
        """Log a report of a later step than all before it."""
        self.step = report["step"]
        row = {"time": report["time"], "step": self.step, **(metrics_of(report) or {})}
        for logger in self._loggers:
            logger.log_trial_result(self.step, self._trial, row)

    def publish(self, seconds: float = 0.0) -> None:
        """Bring the files to an object store, unless that was done so few seconds ago."""
        stored = self._stored.path
        if stored == self._folder or time.monotonic() - self._published < seconds:
            return
        self._published = time.monotonic()
        for file in self._folder.iterdir():
            write_atomic(stored / file.name, file.read_bytes())

    def end(self) -> None:
        """Add the hyperparameters and close the files."""
        for logger in self._loggers:
            logger.log_trial_end(self._trial)
        try:
            self.publish()
        finally:
            if self._folder != self._stored.path:
                shutil.rmtree(self._folder, ignore_errors=True)


def _folder_for(stored: StoredCell) -> Path:
    """Return where the files are written: the cell's folder, if it is one."""
    return stored.path if isinstance(stored.path, Path) else Path(mkdtemp(prefix="tokensweep-"))


def _plain(value: Any) -> str | float:
    """Return a hyperparameter as TensorBoard shows it; lists and None have no type there."""
    return value if isinstance(value, str | bool | int | float) else json.dumps(value)


class _EventsLogger(TBXLoggerCallback):
    """Tune's logger, with optimiser steps as x axis and the time of the report."""

    def __init__(self) -> None:
        super().__init__()
        self._summary_writer_cls = _EventsFile

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if trial not in self._trial_writer:
            self.log_trial_start(trial)
        self._trial_writer[trial].time = result["time"]
        metrics = {name: value for name, value in result.items() if name not in ("time", "step")}
        super().log_trial_result(iteration, trial, metrics | {TRAINING_ITERATION: result["step"]})


class _EventsFile:
    """What Tune's logger needs of tensorboardX's `SummaryWriter`, and nothing else.

    That one has a thread for every trial, waits for the disk at every report, and gives a report
    that is taken from the cell's log no time but now.
    """

    def __init__(self, folder: Path, flush_secs: int) -> None:
        now = time.time()
        self._file = (folder / f"events.out.tfevents.{now:010.0f}.tokensweep").open("wb")
        self.time = now
        self._points: list[Summary.Value] = []
        """Of the newest report: one event holds them all."""
        self._step = 0
        self._add(Event(file_version="brain.Event:2"))

    @property
    def file_writer(self) -> "_EventsFile":
        """Where Tune's logger puts hyperparameters."""
        return self

    def add_scalar(self, tag: str, value: float, global_step: int) -> None:
        """Add a point of a curve; `flush` follows once for all points of a report."""
        self._points.append(Summary.Value(tag=tag, simple_value=value))
        self._step = global_step

    def add_summary(self, summary: Summary) -> None:
        """Add what is no point of a curve."""
        self._add(Event(summary=summary))

    def flush(self) -> None:
        """Let readers see what was added."""
        self._add(Event(step=self._step, summary=Summary(value=self._points)))
        self._points.clear()
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = self.time
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        for part in (length, data):
            self._file.write(part)
            self._file.write(struct.pack("<I", masked_crc32c(part)))
