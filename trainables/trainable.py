"""The thin Ray Tune Trainable around `Finetuning`: one trial trains one cell.

The cell's folder in the store is the truth. Tune keeps no checkpoints of its own: whenever a
trial starts, for the first time, after a crash or in a new launch, it goes on from the newest
whole state in the folder. So does an attempt that ends on a number that is not finite, but in
the same process and gentler: the folder tells how often that has happened.
"""

import io
import math
import time
from pathlib import Path
from typing import Any

import torch
from ray import tune
from safetensors.torch import save as save_safetensors

from trainables.cell import Cell
from trainables.cell_folder import CellFolder
from trainables.finite import NonFiniteError
from trainables.gentler import changes_after, lost_after, with_changes
from trainables.loop import Finetuning

REPORT_SECONDS = 15.0
"""How often a running cell reports, so that a watcher sees it move."""


class FinetuneTrainable(tune.Trainable):
    """Trains `config["cell"]` in the folder `config["folder"]`.

    Config:
        cell_id: The cell's id, by which the dashboard shows the trial.
        cell: The cell as a plain dict.
        folder: Path of the cell's folder in the store.
        data_root: Folder of the dataset, or None for an embedded one.
        weights: Folder of the hosts' pretrained weights, or None to let timm fetch them.
        teacher_folder: Folder of the cell's prerequisite in the store, or None.
        index_folder: Where indices of datasets are kept.
        threads: CPU threads for torch.
        stop_file: When this file exists, the trial saves its state and ends.
        cpu, gpu: What the trial reserves; `gpu` may be a fraction.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Reserve the CPUs and the share of a GPU that the cell asks for."""
        return tune.PlacementGroupFactory([{"CPU": config["cpu"], "GPU": config["gpu"]}])

    def setup(self, config: dict[str, Any]) -> None:
        """Note what to train; the first step opens it."""
        self._cell_id = config["cell_id"]
        self._cell = Cell.model_validate(config["cell"])
        self._folder = CellFolder(Path(config["folder"]))
        self._place: dict[str, Any] = {
            "data_root": Path(config["data_root"]) if config["data_root"] else None,
            "index_folder": Path(config["index_folder"]),
            "host_weights": Path(config["weights"]) if config["weights"] else None,
            "device": torch.device("cuda" if config["gpu"] else "cpu"),
            "threads": config["threads"],
            "teacher_folder": Path(config["teacher_folder"]) if config["teacher_folder"] else None,
        }
        self._stop_file = Path(config["stop_file"])
        self._checkpoint_seconds = self._cell.recipe.checkpoint_minutes * 60
        self._finetuning: Finetuning | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another cell in this process, which already holds torch and timm."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until something is worth reporting; save when it is time to."""
        if self._finetuning is None:
            if self._stopping():
                return {"interrupted": True, "finished": False, "done": True}
            self._finetuning = self._begin_attempt()
        finetuning = self._finetuning
        checkpoint_due = self._saved_at + self._checkpoint_seconds
        deadline = min(time.monotonic() + REPORT_SECONDS, checkpoint_due)
        try:
            report = finetuning.run(until=lambda: self._stopping() or time.monotonic() > deadline)
        except NonFiniteError as error:
            finetuning.close()
            return self._end_attempt(error)
        stopping = self._stopping()
        if report["best_improved"]:
            weights, meta = finetuning.best
            self._folder.save_best(save_safetensors(weights), meta)
        if report["epoch_ended"] or stopping or time.monotonic() > checkpoint_due:
            self._save(finetuning)
        self._folder.append_log(report)
        if report["finished"]:
            self._folder.write_result(
                finetuning.result()
                | {"attempts": self._folder.attempts(), "gentler": self._changes}
            )
        done = report["finished"] or stopping
        if done:
            finetuning.close()
        return {
            **report,
            "first_step": self._first_step,
            "interrupted": stopping,
            "done": done,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Hand Tune a pointer only: the state itself is in the store."""
        return {"cell_id": self._cell_id}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Ignore Tune's pointer, which may be old: `setup` has loaded the newest state."""

    def _begin_attempt(self) -> Finetuning:
        """Go on from the newest whole state, as gently as the attempts so far ask for."""
        self._changes = changes_after(self._cell.recipe, len(self._folder.attempts()))
        self._saved_at = time.monotonic()
        finetuning = Finetuning(with_changes(self._cell, self._changes), **self._place)
        saved = self._folder.load_last()
        if saved is not None:
            state = torch.load(io.BytesIO(saved), weights_only=True)
            # An attempt that ended after this state may have found better weights than it knows.
            state["best"] = self._folder.best_meta() or state["best"]
            finetuning.load_state_dict(state)
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
        self._finetuning = None
        lost = lost_after(self._cell.recipe, attempts)
        return {"attempt_ended": attempts, "finished": False, "done": lost}

    def _save(self, finetuning: Finetuning) -> None:
        buffer = io.BytesIO()
        torch.save(finetuning.state_dict(), buffer)
        self._folder.save_last(finetuning.step, buffer.getvalue())
        self._saved_at = time.monotonic()

    def _stopping(self) -> bool:
        return self._stop_file.exists()

    def __repr__(self) -> str:
        return getattr(self, "_cell_id", type(self).__name__)
