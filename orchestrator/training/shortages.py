"""Cells that ran out of memory: each gets a larger share of a GPU, or more CPUs, and continues.

STORAGE/STUDY/cells/CELL_ID/memory.json   sealed: what was too little, each time
"""

from dataclasses import dataclass, replace
from typing import cast

from orchestrator.cluster.connection import Cluster
from orchestrator.store.store import Store
from orchestrator.study.study import in_words
from orchestrator.watching.progress import Progress
from trainables.cell.cell import Cell
from trainables.cell.json_records import MemoryRecord, Shortage
from trainables.storage import layout
from trainables.storage.files import DamagedFileError, read_sealed_json, write_sealed_json
from trainables.trial.config import TrialConfig

LOW_MEMORY = "running low on memory"
"""What Ray reports of a process that its memory monitor has killed.

"Task was killed ..." until Ray 2.54 and "N worker(s) were killed ..." since, in the text of a
failed actor, whose error has no type for it:
https://github.com/ray-project/ray/blob/ray-2.60.0/src/ray/raylet/node_manager.cc
"""

OUT_OF_MEMORY = "out of memory"
"""The event in the log."""


@dataclass(frozen=True)
class Shortages:
    """Records which cells ran out of memory, and decides what they reserve instead."""

    store: Store
    cluster: Cluster
    progress: Progress

    def with_share(self, config: TrialConfig) -> TrialConfig:
        """Return what a cell reserves, after all that has been too little for it."""
        for short in self._record(config.cell_id):
            # What was too little on a GPU says nothing about CPUs, and the other way round.
            if bool(short["gpu"]) != bool(config.gpu):
                continue
            if config.gpu:
                tried = replace(config, gpu=short["gpu"])
            else:
                tried = replace(config, cpu=short["cpu"])
            config = max(self.larger(tried) or tried, config, key=lambda c: c.gpu or c.cpu)
        return config

    def after(self, config: TrialConfig, reason: str) -> TrialConfig | None:
        """Record that a trial ran out of memory.

        Args:
            config: Of the trial.
            reason: The error.

        Returns:
            The configuration with which the cell continues, None if it had all there is.
        """
        larger = self.larger(config)
        stored = self.store.cell(config.cell_id)
        short: Shortage = {
            "cpu": config.cpu,
            "gpu": config.gpu,
            "workers": config.workers,
            "error": last_line(reason),
        }
        record: MemoryRecord = {"shortages": [*self._record(stored.id), short]}
        write_sealed_json(layout.MEMORY_RECORD.below(stored.path), record)
        stored.append_log({"event": OUT_OF_MEMORY, **short})
        if larger is not None:
            words = (
                f"out of memory with {_in_words(config)}; "
                f"continuing from its last state with {_in_words(larger)}"
            )
            self.progress.retry(stored.id, words)
            self.progress.note(f"{stored.id}: {words}")
        return larger

    def after_kill(self, config: TrialConfig, reason: str) -> TrialConfig | None:
        """Do as `after` if Ray's memory monitor has killed the trial; else return None."""
        return self.after(config, reason) if LOW_MEMORY in reason else None

    def larger(self, config: TrialConfig) -> TrialConfig | None:
        """Return the configuration with twice the share, None if it has the largest share."""
        if config.gpu:
            larger = replace(config, gpu=min(1.0, 2 * config.gpu))
        else:
            most = max(cpus for cpus, _ in self.cluster.nodes)
            # The threads stay as they are, because the weights depend on their number.
            larger = replace(config, cpu=min(most, 2 * config.cpu))
        room = self.cluster.room(larger.cpu, larger.gpu)
        return larger if larger != config and room >= config.workers else None

    def _record(self, cell_id: str) -> list[Shortage]:
        try:
            file = layout.MEMORY_RECORD.below(self.store.cell(cell_id).path)
            record = cast(MemoryRecord | None, read_sealed_json(file))
        except DamagedFileError:
            return []  # The cell will run out of memory again.
        return record["shortages"] if record else []


def advice(config: TrialConfig) -> str:
    """Return what to change of a cell that ran out of memory with all there is."""
    recipe = Cell.model_validate_json(config.cell).recipe
    return (
        f"out of memory even with {_in_words(config)}, which is all there is; lower batch_size "
        f"({recipe.batch_size}) and raise accumulation ({recipe.accumulation}) in proportion, or "
        "split the batches between GPUs with `workers` in resources"
    )


def last_line(text: str) -> str:
    """Return the last line of an error, shortened to 200 characters."""
    return text.strip().splitlines()[-1][:200]


def _in_words(config: TrialConfig) -> str:
    return in_words(config.cpu, config.gpu, config.workers)
