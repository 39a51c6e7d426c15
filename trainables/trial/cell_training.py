"""The training of a cell in its folder of the store, in one process or as one of several ranks.

The folder is the truth. Whenever a training starts, for the first time, after a crash or in a new
launch, it continues from the newest whole state there. After an attempt that ended on a number
that is not finite it does so with the next fallback recipe; the folder records the attempts.

Training pauses while a state is copied and continues while it is written. A report may therefore
come before its state is in the store, but it is logged only after. Whatever ends a training waits
until everything is written.
"""

import io
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from trainables.cell.cell import Cell
from trainables.cell.cell_folder import CellFolder
from trainables.cell.json_records import BestRecord, TrialValues, TunedValues
from trainables.cell.not_finite import (
    NonFiniteError,
    changes_after,
    is_last_attempt,
    with_changes,
)
from trainables.cell.report import Ending, Report, TrialReport
from trainables.loop.loop import Finetuning, ResumeState
from trainables.loop.opening import open_finetuning
from trainables.loop.part_timing import part
from trainables.loop.selecting import Weights
from trainables.models.device import device_for
from trainables.storage.background import BackgroundWriter
from trainables.storage.paths import store_path
from trainables.storage.retry import StorageError, patience
from trainables.storage.stop_file import StopFile
from trainables.trial.config import TrialConfig
from trainables.workers import ALONE, Workers

T = TypeVar("T")

REPORT_SECONDS = 15.0
"""How often a running cell reports at least."""


class CellTraining:
    """Trains a cell, report by report; of several ranks the first alone writes.

    Args:
        config: The trial's configuration.
        ranks: This process among those that train the cell together.
    """

    def __init__(self, config: TrialConfig, ranks: Workers = ALONE) -> None:
        self._ranks = ranks
        self._config = config
        self._tuned = json.loads(config.tuned)
        self._cell = Cell.model_validate_json(config.cell).tuned(self._tuned)
        self._folder = CellFolder(store_path(config.folder))
        self._stop_file = StopFile(config.stop_file)
        self._checkpoint_seconds = (
            self._cell.recipe.checkpoint_minutes * 60 if ranks.first else math.inf
        )
        self._finetuning: Finetuning | None = None
        self._storage_notes: SimpleQueue[str] = SimpleQueue()
        """What the storage made wait, to be reported."""
        self._writer = BackgroundWriter(self._storage_notes.put)
        self._unlogged: list[Report] = []
        """Reports that are logged with what is written next."""

    def step(self) -> TrialReport:
        """Train until there is something to report; save when that is due.

        Returns:
            The report. Its loss and step are the same on all ranks.
        """
        try:
            report = self._train()
        except StorageError as error:
            if not error.full:
                raise
            # Another try would fail, too. A later launch continues from what is saved.
            report = TrialReport(ending=Ending.STORAGE_FULL, error=str(error))
        notes = (self._storage_notes.get() for _ in range(self._storage_notes.qsize()))
        return replace(report, storage=tuple(notes))

    def _train(self) -> TrialReport:
        finetuning = self.opened()
        if self._is_to_stop(finetuning):
            return self._from_store(partial(self._stop_early, finetuning))
        deadline = min(time.monotonic() + REPORT_SECONDS, self._checkpoint_due)
        try:
            report = finetuning.run(until=lambda: self._stopping() or time.monotonic() > deadline)
        except NonFiniteError as error:
            self.close()
            return self._from_store(partial(self._end_attempt, error))
        except Exception:
            self.close()  # Another process may use the folder as soon as this one gives up.
            raise
        return self._from_store(partial(self._keep, finetuning, report))

    @property
    def _is_halved(self) -> bool:
        return self._cell.trial == "asha"

    def _is_to_stop(self, finetuning: Finetuning) -> bool:
        """Tell whether successive halving has decided that a trial ends here."""
        if not self._is_halved:
            return False
        rungs = self._from_store(self._folder.rungs)
        return any(rung["stops"] and finetuning.epoch >= rung["epoch"] for rung in rungs)

    def _stop_early(self, finetuning: Finetuning) -> TrialReport:
        """Write the result that a trial has so far."""
        self.wait()
        self._log(self._taken_to_log())
        self._write_result(finetuning, stopped=True)
        return TrialReport(first_step=self._first_step, ending=Ending.FINISHED)

    def close(self) -> None:
        """Free the model and end the processes that load data; a later `step` opens them again.

        This waits for what is being written, whether that succeeds or not.
        """
        with suppress(Exception):
            self.wait()
        self._unlogged = []
        if self._finetuning is not None:
            self._finetuning.close()
            self._finetuning = None

    def opened(self) -> Finetuning:
        """Return the training, which is opened first where it is not."""
        self._finetuning = self._finetuning or self._begin_attempt()
        return self._finetuning

    def _begin_attempt(self) -> Finetuning:
        """Continue from the newest whole state, with the recipe of the next attempt."""
        attempts, saved, best = self._from_store(
            lambda: (
                len(self._folder.attempts()),
                self._folder.load_last(),
                self._folder.best_meta(),
            )
        )
        self._changes = changes_after(self._cell.recipe, attempts)
        self._checkpoint_due = time.monotonic() + self._checkpoint_seconds
        finetuning = self._open(with_changes(self._cell, self._changes))
        if saved is not None:
            state = torch.load(io.BytesIO(saved), weights_only=True)
            # An attempt that ended after this state may have saved better weights.
            finetuning.load_state_dict(state | {"best": best or state["best"]})
        self._first_step = finetuning.step
        return finetuning

    def _open(self, cell: Cell) -> Finetuning:
        config = self._config
        return open_finetuning(
            cell,
            data_root=Path(config.data_root) if config.data_root else None,
            index_folder=Path(config.index_folder),
            host_weights=Path(config.weights) if config.weights else None,
            teacher_folder=store_path(config.teacher_folder) if config.teacher_folder else None,
            device=device_for(config.gpu),
            threads=config.threads,
            ranks=self._ranks,
        )

    def _end_attempt(self, error: NonFiniteError) -> TrialReport:
        """Record an attempt that ended; the next step tries a fallback recipe, if one is left."""
        # This comes before the record, so that a crash between the two costs no attempt. The state
        # at the step that failed has to go: it would fail again.
        self._folder.discard_states(from_step=error.step)
        attempts = len(self._folder.attempts()) + 1
        self._folder.add_attempt(
            {
                "attempt": attempts,
                "gentler": self._changes,
                "first_step": self._first_step,
                "step": error.step,
                **self._of_tuning(),
                "found": {n: x if math.isfinite(x) else str(x) for n, x in error.found.items()},
            }
        )
        is_last = is_last_attempt(self._cell.recipe, attempts)
        return TrialReport(attempt_ended=attempts, ending=Ending.NOT_FINITE if is_last else None)

    def _keep(self, finetuning: Finetuning, report: Report) -> TrialReport:
        """Write to the store what has to be kept at this report."""
        stopping = self._stopping()
        due = report.epoch_ended or stopping or time.monotonic() > self._checkpoint_due
        began = time.perf_counter()
        with part("checkpoint"):
            last = due and not report.finished  # Otherwise the result follows at once.
            self._unlogged.append(report)
            self.save(best=report.best_improved, last=last)
            if stopping or report.finished or (self._is_halved and report.epoch_ended):
                self.wait()  # The driver may write to the log of a trial that it decides about.
        blocked, written = time.perf_counter() - began, self._writer.written()
        if not self._writer.busy:
            self._log(self._taken_to_log())
        if report.finished:
            self._write_result(finetuning)
            ending: Ending | None = Ending.FINISHED
        else:
            ending = Ending.INTERRUPTED if stopping else None
        return TrialReport(
            training=report,
            first_step=self._first_step,
            checkpoint_bytes=written.bytes,
            checkpoint_seconds=written.seconds,
            checkpoint_blocked=blocked,
            ending=ending,
        )

    def _write_result(self, finetuning: Finetuning, *, stopped: bool = False) -> None:
        of_trial: TrialValues = {"stopped": stopped} if self._is_halved else {}
        self._folder.write_result(
            {
                **finetuning.result(),
                **of_trial,
                "attempts": self._folder.attempts(),
                "gentler": self._changes,
                "macs": self._config.macs,
                **self._of_tuning(),
            }
        )

    def _of_tuning(self) -> TunedValues:
        """Return what records of a tuned cell have more than others."""
        return {"tuned": self._tuned} if self._tuned else {}

    def save(self, *, best: bool, last: bool) -> None:
        """Start to write copies of the best weights and of the resume state."""
        if not (best or last):
            return
        finetuning = self.opened()
        found = finetuning.best if best else None
        state = on_cpu(finetuning.state_dict()) if last else None
        self._writer.begin(partial(self._write, found, state, self._taken_to_log()))
        if last:
            self._checkpoint_due = time.monotonic() + self._checkpoint_seconds

    def wait(self) -> None:
        """Wait until all is written; raise what writing it has raised."""
        self._writer.wait()

    def _write(
        self,
        best: tuple[Weights, BestRecord] | None,
        state: ResumeState | None,
        reports: Sequence[Report],
    ) -> int:
        """Write what there is; return how many bytes that were.

        The state comes after the best weights, which it records, and the reports after both: what
        is logged is in the store.
        """
        count = 0
        if best is not None:
            weights, meta = save_safetensors(best[0]), best[1]
            self._folder.save_best(weights, meta)
            count += len(weights)
        if state is not None:
            last = as_bytes(state)
            self._folder.save_last(state["step"], last)
            count += len(last)
        self._log(reports)
        return count

    def _taken_to_log(self) -> list[Report]:
        """Take the reports that are not logged yet."""
        reports, self._unlogged = self._unlogged, []
        return reports

    def _log(self, reports: Sequence[Report]) -> None:
        for report in reports:
            self._folder.append_log(report.entry())

    def _from_store(self, access: Callable[[], T]) -> T:
        """Return on all ranks what the first one reads or writes; retry while the storage fails."""

        def outcome() -> T | StorageError:
            try:
                return access()
            except StorageError as error:
                return error  # The other ranks wait for an answer.

        with patience(self._storage_notes.put):
            found = self._ranks.from_first(outcome)
        if isinstance(found, StorageError):
            raise found
        return found

    def _stopping(self) -> bool:
        return self._stop_file.exists()


def as_bytes(state: ResumeState) -> bytes:
    """Return a resume state as a file holds it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def on_cpu(state: dict[Any, Any]) -> dict[Any, Any]:
    """Return a copy of a resume state in main memory, which training does not change."""
    return {name: _copied(value) for name, value in state.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("cpu", copy=True)
    return on_cpu(value) if isinstance(value, dict) else value
