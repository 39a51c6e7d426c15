"""The training stage: one Tune experiment over the cells that are not trained yet."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from orchestrator.cluster.connection import Cluster, remembered
from orchestrator.cluster.environment import withhold_credentials
from orchestrator.command import command_line
from orchestrator.data.datasets import dataset_root
from orchestrator.errors import UserError
from orchestrator.interrupts import Interrupts
from orchestrator.packing.sharing import Reserved
from orchestrator.packing.shortages import Shortages
from orchestrator.storage.free_space import FreeSpace
from orchestrator.storage.store import CellState, Store, waits_for
from orchestrator.training.observer import TrialObserver
from orchestrator.training.scheduler import CellScheduler
from orchestrator.training.search import CellSearch
from orchestrator.watching.progress import Progress
from trainables.cell import Cell
from trainables.trainable import FinetuneTrainable

RETRIES = 2
"""How often a cell that fails is tried again, from its last state, before it is given up."""

READY_FOR_OLD_PROCESSES = 4
"""Cells released ahead where there is no GPU: Tune keeps as many processes as cells await one.

With GPUs a single one, or cells that need a whole GPU would be overtaken for ever."""

TEACHER_FAILED = "teacher failed"
"""What the log calls it where a cell is given up without an attempt of its own."""


@dataclass(frozen=True)
class Training:
    """What the training stage needs to know."""

    store: Store
    cluster: Cluster
    data: Path | None
    weights: Path | None
    reserved: Mapping[str, Reserved]
    """What each cell reserves, by id."""
    seconds: Mapping[str, float]
    """Expected duration of each cell, by id."""
    macs: Mapping[str, float]
    """Multiply-accumulates of each cell's training, by id."""
    given_up_once: frozenset[str]
    """Ids of cells that have used up their retries in an earlier launch: tried only once."""
    max_concurrent: int | None

    def run(
        self,
        cells: Sequence[Cell],
        *,
        interrupts: Interrupts,
        progress: Progress,
        on_trained: Callable[[str], None],
        on_tick: Callable[[], None],
    ) -> None:
        """Train the cells; their states in the store tell how it went.

        Args:
            cells: What is not trained yet.
            interrupts: When requested, running cells save and end and no other begins.
            progress: Told of everything that happens.
            on_trained: Called with the id of every cell as it becomes trained.
            on_tick: Called over and over while cells train.
        """
        shortages = Shortages(self.store, self.cluster, progress)
        search = CellSearch(
            cost=lambda config: self.seconds[config["cell_id"]],
            retries=lambda config: 0 if config["cell_id"] in self.given_up_once else RETRIES,
            stopping=lambda: interrupts.requested,
            held=FreeSpace(self.store.path, progress.note).is_short,
            room=remembered(ray.cluster_resources),
            ahead=1 if self.cluster.gpus else READY_FOR_OLD_PROCESSES,
            out_of_memory=shortages.after,
            on_released=lambda cell_id: progress.set_state(cell_id, CellState.PENDING),
            on_given_up=lambda cell_id, teacher: self._give_up(cell_id, teacher, progress),
            max_concurrent=self.max_concurrent,
        )
        configs = [shortages.with_share(self.trial_config(cell)) for cell in cells]
        for cell, config in zip(cells, configs, strict=True):
            request = FinetuneTrainable.default_resource_request(config)
            progress.plan(cell.id, request.required_resources)
            if teacher := waits_for(self.store, cell):
                progress.wait(cell.id, teacher)
        traces, name = self._tune_folder(), f"launch-{time.time_ns()}"
        tuner = tune.Tuner(
            FinetuneTrainable,
            param_space={"trial": tune.grid_search(configs)},
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=CellScheduler(shortages, search.without_room),
                reuse_actors=True,
                trial_name_creator=_cell_id,
                trial_dirname_creator=_cell_id,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(traces),
                callbacks=[
                    TrialObserver(self.store, progress, on_trained, on_tick, interrupts.stop)
                ],
                # The store keeps every state; Tune's checkpoints would be second copies.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        withhold_credentials()
        _count_no_callbacks()
        try:
            tuner.fit()
        finally:
            shutil.rmtree(traces / name, ignore_errors=True)
            with suppress(OSError):  # Others may have put something there.
                traces.rmdir()

    def _tune_folder(self) -> Path:
        """Return where Tune leaves its traces: a folder of this node, if the store is none.

        Nothing reads them, and they grow with every launch: those of a launch that was killed go.
        """
        traces = self.store.path / "tune"
        if not isinstance(traces, Path):
            return Path(mkdtemp(prefix="tune-"))
        for launch in traces.glob("launch-*"):
            shutil.rmtree(launch, ignore_errors=True)
        return traces.absolute()

    def _give_up(self, cell_id: str, teacher_id: str, progress: Progress) -> None:
        """Declare a cell failed because its teacher has; it has not used up an attempt."""
        stored, teacher = self.store.cell(cell_id), self.store.cell(teacher_id)
        stored.append_log({"event": TEACHER_FAILED, "teacher": teacher_id})
        stored.write_error(
            f"not trained, for its teacher {teacher_id} failed (see {teacher.error_file}); "
            f"mend that and type: {command_line('--retry-failed')}"
        )
        progress.fail(cell_id, stored.reason(), str(stored.error_file))

    def trial_config(self, cell: Cell) -> dict[str, Any]:
        """Return the Tune configuration of a cell's trial.

        Raises:
            UserError: The cluster can never fulfil what the cell's capacity asks for.
        """
        reserved = self.reserved[cell.id]
        room = self.cluster.room(reserved.cpu, reserved.gpu)
        if room < reserved.workers:
            raise UserError(
                f"resources.{cell.capacity} asks for {reserved}, but "
                f"the nodes of {self.cluster} have room for {room} such workers"
            )
        root = dataset_root(cell.dataset, self.data)
        teacher = self.store.cell(cell.prerequisite).path if cell.prerequisite else None
        return {
            "cell_id": cell.id,
            # Text: Tune copies and measures whatever numbers it finds in there.
            "cell": cell.model_dump_json(),
            "folder": str(self.store.cell(cell.id).path.absolute()),
            "stop_file": str(self.store.stop_file.absolute()),
            "data_root": str(root.absolute()) if root else None,
            "weights": str(self.weights) if self.weights else None,
            "prerequisite": cell.prerequisite,
            "teacher_folder": str(teacher.absolute()) if teacher else None,
            "index_folder": str(self.store.datasets.absolute()),
            "threads": max(1, int(reserved.cpu)),
            "macs": self.macs[cell.id],
            **asdict(reserved),
        }


def _count_no_callbacks() -> None:
    """Spare Tune the import of wandb and others just to count the callbacks that are theirs."""
    from ray.air._internal import usage

    usage.tag_callbacks = lambda callbacks: False


def _cell_id(trial: Trial) -> str:
    return str(trial.trial_id)
