"""Cells that ran out of memory: each gets a larger share of a GPU, or more CPUs, and goes on.

STORAGE/STUDY/cells/CELL_ID/memory.json   sealed: what was too little, each time
"""

from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from orchestrator.cluster.connection import Cluster
from orchestrator.storage.store import CellState, Store
from orchestrator.study import in_words
from orchestrator.training.observer import last_line, reason_of
from orchestrator.training.release import Config
from orchestrator.watching.progress import Progress
from trainables.cell import Cell
from trainables.files import DamagedFileError, read_sealed_json, write_sealed_json
from trainables.trainable import FinetuneTrainable

SAID_OF_KILLED_WORKERS = "running low on memory"
"""What Ray says of a process that its memory monitor has killed."""

OUT_OF_MEMORY = "out of memory"
"""What the log calls it."""


@dataclass(frozen=True)
class Shortages:
    """Notes cells that ran out of memory, and what they are to reserve instead."""

    store: Store
    cluster: Cluster
    progress: Progress

    def with_share(self, config: Config) -> Config:
        """Return what a cell is to reserve after all that has proved too little for it."""
        kind = "gpu" if config["gpu"] else "cpu"
        for short in self._record(config["cell_id"]):
            # What was too little on GPUs says nothing about CPUs, and the other way round.
            if bool(short["gpu"]) == bool(config["gpu"]):
                tried = config | {kind: short[kind]}
                config = max(self.larger(tried) or tried, config, key=lambda c: c[kind])
        return config

    def after(self, config: Config, reason: str) -> Config | None:
        """Record that a trial ran out of memory; declare the cell failed if it had all there is.

        Args:
            config: Of the trial.
            reason: The error.

        Returns:
            The configuration of the trial that goes on, None where the cell has failed.
        """
        stored = self.store.cell(config["cell_id"])
        larger = self.larger(config)
        self.record(config, larger, reason)
        if larger is None:
            stored.write_error(f"{reason}\n{_advice(config)}")
            self.progress.fail(stored.id, stored.reason(), str(stored.error_file))
            self.progress.note(f"{stored.id}: failed ({stored.reason()}); see {stored.error_file}")
        else:
            self.progress.set_state(stored.id, CellState.PENDING)
        return larger

    def larger(self, config: Config) -> Config | None:
        """Return a configuration with twice the share, None where there is no larger one."""
        if config["gpu"]:
            larger = config | {"gpu": min(1.0, 2 * config["gpu"])}
        else:
            most = max(cpus for cpus, _ in self.cluster.nodes)
            # As many threads as before: the weights must not depend on how much memory there was.
            larger = config | {"cpu": min(most, 2 * config["cpu"])}
        room = self.cluster.room(larger["cpu"], larger["gpu"])
        return larger if larger != config and room >= config["workers"] else None

    def record(self, config: Config, larger: Config | None, reason: str) -> None:
        """Keep what was too little for a cell, and tell with what it goes on."""
        stored = self.store.cell(config["cell_id"])
        short = _reserved(config) | {"error": last_line(reason)}
        record = {"shortages": [*self._record(stored.id), short]}
        write_sealed_json(stored.path / "memory.json", record)
        stored.append_log({"event": OUT_OF_MEMORY, **short})
        if larger is not None:
            told = (
                f"out of memory with {_in_words(config)}; "
                f"going on from its last state with {_in_words(larger)}"
            )
            self.progress.retry(stored.id, told)
            self.progress.note(f"{stored.id}: {told}")

    def _record(self, cell_id: str) -> list[dict[str, Any]]:
        try:
            record = read_sealed_json(self.store.cell(cell_id).path / "memory.json")
        except DamagedFileError:
            return []  # The cell will find out again.
        return record["shortages"] if record else []


class MemoryScheduler(FIFOScheduler):
    """Gives a trial that Ray's memory monitor killed a larger share before it is tried again."""

    def __init__(self, shortages: Shortages) -> None:
        super().__init__()
        self._shortages = shortages

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Enlarge a trial that is to be tried again; then that does not count as a failure."""
        if trial.status != Trial.ERROR or SAID_OF_KILLED_WORKERS not in reason_of(trial):
            return
        larger = self._shortages.larger(trial.config)
        self._shortages.record(trial.config, larger, reason_of(trial))
        if larger is not None:
            trial.config = larger
            trial.update_resources(FinetuneTrainable.default_resource_request(larger))
            trial.max_failures += 1

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its scheduler for a restore, which a launch never does.


def _reserved(config: Config) -> dict[str, Any]:
    return {key: config[key] for key in ("cpu", "gpu", "workers")}


def _in_words(config: Config) -> str:
    return in_words(**_reserved(config))


def _advice(config: Config) -> str:
    recipe = Cell.model_validate_json(config["cell"]).recipe
    return (
        f"out of memory even with {_in_words(config)}, and there is no more to be had; lower "
        f"batch_size ({recipe.batch_size}) and raise accumulation ({recipe.accumulation}) in "
        "proportion, or share the batches between GPUs with `workers` in resources"
    )
