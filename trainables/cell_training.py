"""The training of a cell in its folder of the store, in one process or as one of several ranks.

The folder is the truth: whenever a training starts, for the first time, after a crash or in a new
launch, it goes on from the newest whole state there. So does an attempt that ends on a number
that is not finite, but gentler: the folder tells how often that has happened.

States are copied where training stands still, and written while it goes on: a report may come
before its state is in the store, but is in the log only after that. What ends a training waits
until all is written.
"""

import io
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from trainables.background_writer import BackgroundWriter
from trainables.cell import Cell
from trainables.cell_folder import CellFolder
from trainables.device import device_for
from trainables.finite import NonFiniteError
from trainables.gentler import changes_after, lost_after, with_changes
from trainables.loop import Finetuning
from trainables.parts import part
from trainables.patience import StorageError, patience
from trainables.ranks import ALONE, Ranks
from trainables.selecting import Weights
from trainables.stop_file import StopFile
from trainables.store_path import store_path

T = TypeVar("T")

REPORT_SECONDS = 15.0
"""How often a running cell reports, so that a watcher sees it move."""


class CellTraining:
    """Trains a cell, report by report; of several ranks the first alone writes.

    Args:
        config: The trial's configuration; see `FinetuneTrainable`.
        ranks: This process among those that train the cell together.
    """

    def __init__(self, config: dict[str, Any], ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._cell = Cell.model_validate_json(config["cell"])
        self._folder = CellFolder(store_path(config["folder"]))
        teacher = config["teacher_folder"]
        self._place: dict[str, Any] = {
            "data_root": Path(config["data_root"]) if config["data_root"] else None,
            "index_folder": Path(config["index_folder"]),
            "host_weights": Path(config["weights"]) if config["weights"] else None,
            "teacher_folder": teacher and store_path(teacher),
            "device": device_for(config["gpu"]),
            "threads": config["threads"],
            "ranks": ranks,
        }
        self._macs: float = config["macs"]
        self._stop_file = StopFile(config["stop_file"])
        self._checkpoint_seconds = (
            self._cell.recipe.checkpoint_minutes * 60 if ranks.first else math.inf
        )
        self._finetuning: Finetuning | None = None
        self._words: SimpleQueue[str] = SimpleQueue()
        """What the storage made wait, to be reported."""
        self._writer = BackgroundWriter(self._words.put)
        self._unlogged: list[dict[str, Any]] = []
        """Reports that are to be logged with what is written next."""

    def step(self) -> dict[str, Any]:
        """Train until something is worth reporting; save when it is time to.

        Returns:
            The report; `loss` and `step` are the same on all ranks. Of what goes into the store it
            has, beside the bytes, the seconds that writing took (`checkpoint_seconds`), and those
            for which training stood still (`checkpoint_blocked`).
        """
        try:
            report = self._train()
        except StorageError as error:
            if not error.full:
                raise
            # Another try would find the same: the cell goes on from what it has saved.
            ended = {"interrupted": True, "storage_full": True, "finished": False, "done": True}
            return ended | {"storage": [*self._told(), str(error)]}
        return report | {"storage": self._told()}

    def _train(self) -> dict[str, Any]:
        finetuning = self._finetuning = self._finetuning or self._begin_attempt()
        deadline = min(time.monotonic() + REPORT_SECONDS, self._checkpoint_due)
        try:
            report = finetuning.run(until=lambda: self._stopping() or time.monotonic() > deadline)
        except NonFiniteError as error:
            self.close()
            return self._from_store(partial(self._end_attempt, error))
        except Exception:
            self.close()  # Another process may go on in the folder as soon as this one gives up.
            raise
        return report | self._from_store(partial(self._keep, finetuning, report))

    def close(self) -> None:
        """Let go of the model and end the processes that load data; a later `step` begins anew.

        What is being written is waited for, whether it succeeds or not.
        """
        with suppress(Exception):
            self._writer.wait()
        self._unlogged = []
        if self._finetuning is not None:
            self._finetuning.close()
            self._finetuning = None

    def _begin_attempt(self) -> Finetuning:
        """Go on from the newest whole state, as gently as the attempts so far ask for."""
        attempts, saved, best = self._from_store(
            lambda: (
                len(self._folder.attempts()),
                self._folder.load_last(),
                self._folder.best_meta(),
            )
        )
        self._changes = changes_after(self._cell.recipe, attempts)
        self._checkpoint_due = time.monotonic() + self._checkpoint_seconds
        finetuning = Finetuning(with_changes(self._cell, self._changes), **self._place)
        if saved is not None:
            state = torch.load(io.BytesIO(saved), weights_only=True)
            # An attempt that ended after this state may have found better weights than it knows.
            finetuning.load_state_dict(state | {"best": best or state["best"]})
        self._first_step = finetuning.step
        return finetuning

    def _end_attempt(self, error: NonFiniteError) -> dict[str, Any]:
        """Record an attempt that ended; the next step begins a gentler one, if one is left."""
        # Before the record: a crash between the two must not cost an attempt. The state at the
        # step that failed is at fault, and would fail there again.
        self._folder.discard_states(from_step=error.step)
        attempts = len(self._folder.attempts()) + 1
        self._folder.add_attempt(
            {
                "attempt": attempts,
                "gentler": self._changes,
                "first_step": self._first_step,
                "step": error.step,
                "found": {n: x if math.isfinite(x) else str(x) for n, x in error.found.items()},
            }
        )
        lost = lost_after(self._cell.recipe, attempts)
        return {"attempt_ended": attempts, "finished": False, "done": lost}

    def _keep(self, finetuning: Finetuning, report: dict[str, Any]) -> dict[str, Any]:
        """Write what a report leaves in the store; return what it says beside the training's."""
        stopping = self._stopping()
        due = report["epoch_ended"] or stopping or time.monotonic() > self._checkpoint_due
        began = time.perf_counter()
        with part("checkpoint"):
            last = due and not report["finished"]  # Then the result follows at once.
            self._unlogged.append(report)
            self._save(finetuning, best=report["best_improved"], last=last)
            if stopping or report["finished"]:
                self._writer.wait()
        blocked, written = time.perf_counter() - began, self._writer.written()
        if not self._writer.busy:
            self._log(self._taken_to_log())
        if report["finished"]:
            self._folder.write_result(
                finetuning.result()
                | {
                    "attempts": self._folder.attempts(),
                    "gentler": self._changes,
                    "macs": self._macs,
                }
            )
        return {
            "first_step": self._first_step,
            "checkpoint_bytes": written.bytes,
            "checkpoint_seconds": written.seconds,
            "checkpoint_blocked": blocked,
            "interrupted": stopping,
            "done": report["finished"] or stopping,
        }

    def _save(self, finetuning: Finetuning, *, best: bool, last: bool) -> None:
        """Begin to write copies of the best weights and of the state to go on from."""
        if not (best or last):
            return
        found = finetuning.best if best else None
        state = on_cpu(finetuning.state_dict()) if last else None
        self._writer.begin(partial(self._write, found, state, self._taken_to_log()))
        if last:
            self._checkpoint_due = time.monotonic() + self._checkpoint_seconds

    def _write(
        self,
        best: tuple[Weights, dict[str, Any]] | None,
        state: dict[str, Any] | None,
        reports: Sequence[dict[str, Any]],
    ) -> int:
        """Write what there is; return its bytes.

        The state comes after the best, which it knows, and the reports after both: what the log
        tells of is in the store.
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

    def _taken_to_log(self) -> list[dict[str, Any]]:
        """Return the reports that are not logged yet, for whoever logs them now."""
        reports, self._unlogged = self._unlogged, []
        return reports

    def _log(self, reports: Sequence[dict[str, Any]]) -> None:
        for report in reports:
            self._folder.append_log(report)

    def _from_store(self, access: Callable[[], T]) -> T:
        """Return on all ranks what the first one finds; wait while the storage fails."""

        def outcome() -> T | StorageError:
            try:
                return access()
            except StorageError as error:
                return error  # For the others, who wait for an answer.

        with patience(self._words.put):
            found = self._ranks.from_first(outcome)
        if isinstance(found, StorageError):
            raise found
        return found

    def _told(self) -> list[str]:
        """Return what the storage made wait since this was asked before."""
        return [self._words.get() for _ in range(self._words.qsize())]

    def _stopping(self) -> bool:
        return self._stop_file.exists()


def as_bytes(state: dict[str, Any]) -> bytes:
    """Return a resume state as a file holds it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def on_cpu(state: dict[Any, Any]) -> dict[Any, Any]:
    """Return a copy of a resume state in the main memory, which training does not change."""
    return {name: _copied(value) for name, value in state.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("cpu", copy=True)
    return on_cpu(value) if isinstance(value, dict) else value
