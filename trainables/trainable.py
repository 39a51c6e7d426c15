"""The thin Ray Tune Trainable around `CellTraining`: one trial trains one cell.

Tune keeps no checkpoints of its own: whenever a trial starts, for the first time, after a crash or
in a new launch, it goes on from what the cell's folder in the store holds.
"""

import time
from typing import TYPE_CHECKING, Any

from ray import tune

from trainables.process import is_spent
from trainables.stop_file import StopFile

if TYPE_CHECKING:
    from trainables.cell_training import CellTraining
    from trainables.rank_group import RankGroup


class FinetuneTrainable(tune.Trainable):
    """Trains `config["cell"]` in the folder `config["folder"]`.

    Config:
        cell_id: The cell's id, by which Ray's dashboard shows the trial.
        cell: The cell as JSON.
        folder: The cell's folder in the store, a path or a URI.
        data_root: Folder of the dataset, or None for an embedded one.
        weights: Folder of the hosts' pretrained weights, or None to let timm fetch them.
        teacher_folder: The folder of the cell's prerequisite likewise, or None.
        index_folder: Where indices of datasets are kept.
        threads: CPU threads for torch, in each worker.
        macs: Multiply-accumulates of the training, for the record.
        stop_file: When this file exists, the trial saves its state and ends.
        workers: How many processes train the cell together; a single one is the trial's own.
        cpu, gpu: What each worker reserves; `gpu` may be a fraction where there is one worker.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Reserve for each worker the CPUs and the GPU that the cell asks for, all at once."""
        worker = {"CPU": config["cpu"], "GPU": config["gpu"]}
        if config["workers"] == 1:
            return tune.PlacementGroupFactory([worker])
        # The trial's own process only waits for the workers.
        return tune.PlacementGroupFactory([{}] + [worker] * config["workers"])

    def setup(self, config: dict[str, Any]) -> None:
        """Note what to train; the first step opens it."""
        self._began = time.monotonic()
        self._take(config)

    def _take(self, config: dict[str, Any]) -> None:
        self._cell_id, self._gpu = config["cell_id"], config["gpu"]
        self._stop_file = StopFile(config["stop_file"])
        self._training = self._open(config)
        self._under_way = False

    def _open(self, config: dict[str, Any]) -> "CellTraining | RankGroup":
        # Both import torch for seconds; the driver, which only names this class, needs neither.
        if config["workers"] == 1:
            from trainables.cell_training import CellTraining

            return CellTraining(config)
        from trainables.rank_group import RankGroup

        return RankGroup(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another cell in this process, which already holds torch and timm."""
        self.cleanup()
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until something is worth reporting, unless the study is stopping.

        The last report tells whether the process is spent and must not get another cell.
        """
        if not self._under_way and self._stop_file.exists():
            return {"interrupted": True, "finished": False, "done": True}
        try:
            report = self._training.step()
        except Exception as error:
            from trainables.memory import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            self._training.close()
            short = {"out_of_memory": str(error) or repr(error), "finished": False, "done": True}
            return short | {"process_spent": True}
        self._under_way = "attempt_ended" not in report
        if not report["done"]:
            return report
        self._training.close()
        return report | {"process_spent": is_spent(self._gpu, time.monotonic() - self._began)}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Hand Tune a pointer only: the state itself is in the store."""
        return {"cell_id": self._cell_id}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Ignore Tune's pointer, which may be old: the newest state is in the store."""

    def cleanup(self) -> None:
        """End the workers and whatever loads data, however the trial ended."""
        self._training.close()

    def __repr__(self) -> str:
        # Ray asks once, as the process begins.
        return f"{self._cell_id} and later cells"
