"""Cells of no work: what a study costs beside its training. Imports no torch."""

import os
import time

from ray import tune

from trainables.cell.cell_folder import CellFolder
from trainables.cell.report import Ending, Report, TrialReport, TuneDict
from trainables.storage.paths import store_path
from trainables.trial.config import TrialConfig
from trainables.trial.trainable import FinetuneTrainable, Training

SECONDS = "TOKENSWEEP_BENCHMARK_SECONDS"
"""Variable that holds the shortest and the longest time, in seconds, that a cell waits."""
WEIGHTS = bytes(100_000)


class IdleTraining:
    """Leaves in a cell's folder what a training leaves, after waiting instead of training.

    Args:
        folder: The cell's folder.
        cell_id: The cell's id.
    """

    def __init__(self, folder: str, cell_id: str) -> None:
        self._folder = CellFolder(store_path(folder))
        self._seconds = seconds_of(cell_id)

    def step(self) -> TrialReport:
        """Wait, write, and report as the last step of a training does."""
        began = time.time()
        time.sleep(self._seconds)
        self._folder.save_best(WEIGHTS, {"accuracy": 50.0, "epoch": 1})
        self._folder.save_last(1, WEIGHTS)
        report = Report(
            step=1,
            total_steps=1,
            epoch=1,
            epochs=1,
            loss=1.0,
            loss_terms={"classification": 1.0},
            lr=1e-3,
            metric="top1",
            accuracy=50.0,
            best_accuracy=50.0,
            images_per_second=1.0,
            data_wait=0.0,
            epoch_ended=True,
            best_improved=True,
            finished=True,
        )
        self._folder.append_log(report.entry() | {"began": began, "process": os.getpid()})
        self._folder.write_result({"accuracy": 50.0, "train_seconds": 0.0, "data_wait": 0.0})
        return TrialReport(training=report, ending=Ending.FINISHED)

    def close(self) -> None:
        """Do nothing: nothing is open."""


class IdleTrainable(FinetuneTrainable):
    """The product's trial around a training of no work."""

    def open(self, config: TrialConfig) -> Training:
        """Return a training of no work."""
        return IdleTraining(config.folder, config.cell_id)


class BareTrainable(tune.Trainable):
    """The least that Tune can run."""

    def setup(self, config: TuneDict) -> None:
        """Do nothing."""

    def reset_config(self, new_config: TuneDict) -> bool:
        """Serve the next trial in the same process."""
        return True

    def step(self) -> TuneDict:
        """End at once."""
        return {"done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> TuneDict:
        """Return an empty state."""
        return {}

    def load_checkpoint(self, checkpoint: TuneDict | None) -> None:
        """Do nothing."""


class WritingTrainable(BareTrainable):
    """What a user would write whose trials leave what cells of ours leave."""

    def setup(self, config: TuneDict) -> None:
        """Open the trial's folder."""
        name = f"cell-{config['seed']:08x}"
        self._training = IdleTraining(f"{config['folder']}/{name}", name)

    def reset_config(self, new_config: TuneDict) -> bool:
        """Serve the next trial in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> TuneDict:
        """Write and report as a cell of ours does."""
        return self._training.step().to_dict()


def seconds_of(cell_id: str) -> float:
    """Return how long a cell waits: the same in every run, and evenly spread over all cells."""
    shortest, longest = map(float, os.environ.get(SECONDS, "0 0").split())
    share: float = int(cell_id.rpartition("-")[2], 16) / 16**8
    return shortest + share * (longest - shortest)
