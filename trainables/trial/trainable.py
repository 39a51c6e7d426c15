"""The thin Ray Tune Trainable around `CellTraining`: one trial trains one cell.

Tune keeps no checkpoints of its own. Whenever a trial starts, for the first time, after a crash or
in a new launch, it continues from what the cell's folder in the store holds.
"""

import time
from dataclasses import replace
from typing import Protocol

from ray import tune

from trainables.cell.report import Ending, TrialReport, TuneDict
from trainables.code_digest import differing_code
from trainables.storage.stop_file import StopFile
from trainables.trial.config import TrialConfig
from trainables.trial.process_reuse import is_spent


class Training(Protocol):
    """Trains a cell, report by report."""

    def step(self) -> TrialReport:
        """Train until there is something to report."""

    def close(self) -> None:
        """Free the model and end all processes; a later `step` opens them again."""


class FinetuneTrainable(tune.Trainable):
    """Trains the cell of a `TrialConfig`, which Tune hands over as a dictionary."""

    @classmethod
    def default_resource_request(cls, config: TuneDict) -> tune.PlacementGroupFactory:
        """Return what Tune reserves for a trial."""
        return resource_request(TrialConfig.from_dict(config))

    def setup(self, config: TuneDict) -> None:
        """Take the first cell; the first step opens it."""
        self._began = time.monotonic()
        code = TrialConfig.from_dict(config).code
        self._other_code = differing_code(code) if code else None
        self._take(TrialConfig.from_dict(config))

    def _take(self, config: TrialConfig) -> None:
        self._config = config
        self._stop_file = StopFile(config.stop_file)
        self._training = self.open(config)
        self._under_way = False

    def open(self, config: TrialConfig) -> Training:
        """Return what trains a cell; subclasses may return something else."""
        # Importing torch takes seconds, and the driver, which only names this class, needs none.
        if config.workers == 1:
            from trainables.trial.cell_training import CellTraining

            return CellTraining(config)
        from trainables.trial.rank_group import RankGroup

        return RankGroup(config)

    def reset_config(self, new_config: TuneDict) -> bool:
        """Take another cell in this process, which has imported torch and timm already."""
        self.cleanup()
        self._take(TrialConfig.from_dict(new_config))
        return True

    def step(self) -> TuneDict:
        """Train until there is something to report, unless the study is stopping."""
        if not self._under_way and self._stop_file.exists():
            return TrialReport(ending=Ending.INTERRUPTED).to_dict()
        if self._other_code:
            words = f"its process would run {self._other_code}, not the driver's"
            return TrialReport(ending=Ending.OTHER_CODE, error=words).to_dict()
        report = self._report()
        self._under_way = report.attempt_ended is None
        if report.done:
            self._training.close()
            short = report.ending is Ending.OUT_OF_MEMORY
            spent = short or is_spent(self._config.gpu, time.monotonic() - self._began)
            report = replace(report, process_spent=spent)
        return report.to_dict()

    def _report(self) -> TrialReport:
        try:
            return self._training.step()
        except Exception as error:
            from trainables.trial.memory import is_out_of_memory  # Imports torch.

            if not is_out_of_memory(error):
                raise
            return TrialReport(ending=Ending.OUT_OF_MEMORY, error=str(error) or repr(error))

    def save_checkpoint(self, checkpoint_dir: str) -> TuneDict:
        """Return a pointer only: the state itself is in the store."""
        return {"cell_id": self._config.cell_id}

    def load_checkpoint(self, checkpoint: TuneDict | None) -> None:
        """Ignore Tune's pointer, which may be outdated: the newest state is in the store."""

    def cleanup(self) -> None:
        """End the workers and the processes that load data, however the trial ended."""
        self._training.close()

    def __repr__(self) -> str:
        # Ray asks only once, when the process starts.
        return f"{self._config.cell_id} and later cells"


def resource_request(config: TrialConfig) -> tune.PlacementGroupFactory:
    """Return the CPUs and GPUs of all of a trial's workers, which Tune reserves at once."""
    worker = {"CPU": config.cpu, "GPU": config.gpu}
    if config.workers == 1:
        return tune.PlacementGroupFactory([worker])
    # The trial's own process only waits for the workers.
    return tune.PlacementGroupFactory([{}] + [worker] * config.workers)
