"""TensorBoard events and a CSV file in every cell's folder.

    CELL_ID/events.out.tfevents.*    scalars by optimiser step, and the cell as hyperparameters
            progress.csv             one row a report

Both are written anew, from the cell's log, when a trial of the cell begins to report, and are
appended to after that: one file and one curve, however often the cell was interrupted. An object
store cannot be appended to: it gets both files anew every minute and when the trial ends.
"""

import csv
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self, TypeGuard

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import StoredCell
from orchestrator.watching.tracker import LoggedReport, curve, metrics_of
from trainables.cell.report import Report
from trainables.storage import layout
from trainables.storage.files import write_atomic

EVENT_FILES, SPREADSHEET = layout.EVENTS.glob, layout.PROGRESS.name()
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

    def reported(self, cell_id: str, report: Report) -> None:
        """Append a report; the first of a trial and one that goes back begin the logs anew."""
        if metrics_of(report) is None:
            return
        try:
            log = self._open.get(cell_id)
            if log is None or report.step <= log.step:
                self._end(cell_id)
                log = self._open[cell_id] = _CellLog(self._store.cell(cell_id))
                log.begin()
            if report.step > log.step:
                log.append(LoggedReport(time.time(), report))
            log.show()
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
            self._note(f"{cell_id}: cannot write TensorBoard and CSV logs: {error}")


class _CellLog:
    """The two files of a cell, from its first report to its last."""

    def __init__(self, stored: StoredCell) -> None:
        self._stored = stored
        self._folder = _folder_for(stored)
        self._published = -math.inf
        self._files = ExitStack()
        self._scalars: dict[str, float] = {}
        """The newest report's."""
        self.step = -1
        """Of the newest report that was logged."""

    def begin(self) -> None:
        """Write what the cell's log has instead of what the files had."""
        for old in (*self._stored.path.glob(EVENT_FILES), self._stored.path / SPREADSHEET):
            old.unlink(missing_ok=True)
        # Not a `SummaryWriter`, which keeps a thread for every cell.
        events = EventsWriter(str(self._folder / "events"))
        self._events = self._files.enter_context(closing(events))
        self._table = self._files.enter_context((self._folder / SPREADSHEET).open("w", newline=""))
        for logged in curve(self._stored.log()):
            self.append(logged)

    def append(self, logged: LoggedReport) -> None:
        """Log a report of a later step than all before it."""
        first = self.step < 0
        self.step, self._time = logged.report.step, logged.time
        metrics = _flat(metrics_of(logged.report) or {})
        self._scalars = {f"ray/tune/{name}": x for name, x in metrics.items() if _is_number(x)}
        points = [Summary.Value(tag=tag, simple_value=x) for tag, x in self._scalars.items()]
        self._add_event(Summary(value=points), self.step)
        row = {"time": self._time, "step": self.step, **metrics}
        if first:
            self._rows = csv.DictWriter(self._table, list(row), extrasaction="ignore")
            self._rows.writeheader()
        self._rows.writerow(row)

    def _add_event(self, summary: Summary, step: int | None = None) -> None:
        self._events.write_event(Event(wall_time=self._time, step=step, summary=summary))

    def show(self) -> None:
        """Let readers see what was logged: at once in a folder, every minute in an object store."""
        self._events.flush()
        self._table.flush()
        if time.monotonic() - self._published >= PUBLISH_SECONDS:
            self._publish()

    def _publish(self) -> None:
        if self._stored.path == self._folder:
            return
        self._published = time.monotonic()
        for file in self._folder.iterdir():
            write_atomic(self._stored.path / file.name, file.read_bytes())

    def end(self) -> None:
        """Add the hyperparameters and close the files."""
        try:
            with self._files:
                if self._scalars:
                    hyperparameters = _flat(self._stored.cell().model_dump(mode="json"))
                    plain = {name: _plain(value) for name, value in hyperparameters.items()}
                    for summary in hparams(plain, self._scalars):
                        self._add_event(summary)
            self._publish()
        finally:
            if self._folder != self._stored.path:
                shutil.rmtree(self._folder, ignore_errors=True)


def _folder_for(stored: StoredCell) -> Path:
    """Return where the files are written: the cell's folder, if it is one."""
    return stored.path if isinstance(stored.path, Path) else Path(mkdtemp(prefix="tokensweep-"))


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    """Return nested values by names such as `recipe/epochs`, after those that are not nested."""
    flat = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": x for inner, x in _flat(value).items()}
    return flat


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not math.isnan(value)


def _plain(value: Any) -> str | float:
    """Return a hyperparameter as TensorBoard shows it; lists and None have no type there."""
    return value if isinstance(value, str | bool | int | float) else json.dumps(value)
