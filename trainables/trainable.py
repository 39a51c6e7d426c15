"""The thin Ray Tune Trainable around `Finetuning`: one trial trains one cell.

The cell's folder in the store is the truth. Tune keeps no checkpoints of its own: whenever a
trial starts, for the first time, after a crash or in a new launch, it goes on from the newest
whole state in the folder.
"""

import io
import time
from pathlib import Path
from typing import Any

import torch
from ray import tune
from safetensors.torch import save as save_safetensors

from trainables.cell import Cell
from trainables.cell_folder import CellFolder
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
        threads: CPU threads for torch.
        stop_file: When this file exists, the trial saves its state and ends.
        cpu, gpu: What the trial reserves; `gpu` may be a fraction.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Reserve the CPUs and the share of a GPU that the cell asks for."""
        return tune.PlacementGroupFactory([{"CPU": config["cpu"], "GPU": config["gpu"]}])

    def setup(self, config: dict[str, Any]) -> None:
        """Open the cell and go on from its newest whole state, unless the study is stopping."""
        self._cell_id = config["cell_id"]
        self._stop_file = Path(config["stop_file"])
        self._finetuning: Finetuning | None = None
        if self._stopping():
            return
        cell = Cell.model_validate(config["cell"])
        self._checkpoint_seconds = cell.recipe.checkpoint_minutes * 60
        self._saved_at = time.monotonic()
        self._folder = CellFolder(Path(config["folder"]))
        self._finetuning = finetuning = Finetuning(
            cell,
            data_root=Path(config["data_root"]) if config["data_root"] else None,
            host_weights=Path(config["weights"]) if config["weights"] else None,
            device=torch.device("cuda" if config["gpu"] else "cpu"),
            threads=config["threads"],
            teacher_folder=Path(config["teacher_folder"]) if config["teacher_folder"] else None,
        )
        state = self._folder.load_last()
        if state is not None:
            finetuning.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        self._first_step = finetuning.step

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another cell in this process, which already holds torch and timm."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until something is worth reporting; save when it is time to."""
        finetuning = self._finetuning
        if finetuning is None:
            return {"interrupted": True, "finished": False, "done": True}
        deadline = time.monotonic() + REPORT_SECONDS
        report = finetuning.run(until=lambda: self._stopping() or time.monotonic() > deadline)
        stopping = self._stopping()
        if report["best_improved"]:
            weights, meta = finetuning.best
            self._folder.save_best(save_safetensors(weights), meta)
        if report["epoch_ended"] or stopping or self._checkpoint_due():
            self._save(finetuning)
        self._folder.append_log(report)
        if report["finished"]:
            self._folder.write_result(finetuning.result())
        return {
            **report,
            "first_step": self._first_step,
            "interrupted": stopping,
            "done": report["finished"] or stopping,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Hand Tune a pointer only: the state itself is in the store."""
        return {"cell_id": self._cell_id}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Ignore Tune's pointer, which may be old: `setup` has loaded the newest state."""

    def _save(self, finetuning: Finetuning) -> None:
        buffer = io.BytesIO()
        torch.save(finetuning.state_dict(), buffer)
        self._folder.save_last(finetuning.step, buffer.getvalue())
        self._saved_at = time.monotonic()

    def _stopping(self) -> bool:
        return self._stop_file.exists()

    def _checkpoint_due(self) -> bool:
        return time.monotonic() - self._saved_at > self._checkpoint_seconds

    def __repr__(self) -> str:
        return getattr(self, "_cell_id", type(self).__name__)
