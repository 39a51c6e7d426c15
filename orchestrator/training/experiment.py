"""The training phase: one Tune experiment over the cells that are not trained yet."""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp

import ray
from ray import tune
from ray.tune.experiment import Trial

from orchestrator.cluster.connection import Cluster, remembered
from orchestrator.cluster.ray_internals import withhold_credentials
from orchestrator.cluster.room import RoomWatch
from orchestrator.cluster.same_code import driver_digest
from orchestrator.console import dataset_root
from orchestrator.errors import UserError
from orchestrator.store.free_space import FreeSpace
from orchestrator.store.searches import stored_choice
from orchestrator.store.store import Store, waits_for
from orchestrator.study.trials import Searches
from orchestrator.training.callbacks import RoomCallback, TrialCallback
from orchestrator.training.choices import Choices
from orchestrator.training.endings import RETRIES, Endings
from orchestrator.training.evaluations import Evaluations
from orchestrator.training.halving import Halving
from orchestrator.training.release import ReleaseOrder
from orchestrator.training.shares import Reservation
from orchestrator.training.shortages import Shortages
from orchestrator.training.tune import CellScheduler, CellSearch
from orchestrator.training.tune_internals import count_no_callbacks
from orchestrator.watching.launch_context import LaunchContext
from orchestrator.watching.progress import Progress
from trainables.cell.cell import Cell
from trainables.trial.config import TrialConfig
from trainables.trial.trainable import FinetuneTrainable, resource_request

READY_FOR_OLD_PROCESSES = 4
"""Cells released ahead on CPUs: Tune keeps as many processes alive as cells wait for one.

With GPUs only one is, because cells that need a whole GPU would otherwise always be overtaken."""


@dataclass(frozen=True)
class TrialQueue:
    """The trials of a launch that have not begun; see `TrialSource`."""

    order: ReleaseOrder
    context: LaunchContext
    space: FreeSpace
    tried_once: frozenset[str]
    """Ids of cells that get no retries."""
    choices: Choices
    """Gives tuned cells the values that were chosen for their recipes."""

    def __len__(self) -> int:
        return len(self.order)

    def next(self) -> TrialConfig | None:
        """Release the next cell, unless the study is stopping or the disk is nearly full."""
        blocked = self.context.stopping or self.space.is_short()
        config = None if blocked else self.order.next()
        return config and self.choices.applied(config)

    def retries(self, config: TrialConfig) -> int:
        """Return how often a cell may crash and be tried again."""
        return 0 if config.cell_id in self.tried_once else RETRIES

    def is_finished(self) -> bool:
        """Return whether no cell will follow; those that are left wait for an interrupted one."""
        return self.context.stopping or self.order.is_stuck()

    def without_room(self) -> list[str]:
        """Return the ids of released cells for which there is no room yet."""
        return self.order.without_room()


@dataclass(frozen=True)
class TuneExperiment:
    """Trains the cells of a launch."""

    store: Store
    cluster: Cluster
    data: Path | None
    weights: Path | None
    reserved: Mapping[str, Reservation]
    """What each cell reserves, by id."""
    seconds: Mapping[str, float]
    """Expected duration of each cell, by id."""
    macs: Mapping[str, float]
    """Multiply-accumulates of each cell's training, by id."""
    tried_once: frozenset[str]
    """Ids of cells that used up their retries in an earlier launch."""
    max_concurrent: int | None
    searches: Searches = field(default_factory=Searches)
    """Choices that cells wait for."""

    def run(self, cells: Sequence[Cell], context: LaunchContext, evaluations: Evaluations) -> None:
        """Train the cells; the outcome is in the store.

        Args:
            cells: What is not trained yet.
            context: Shows what happens. When the launch is stopping, running cells save their state
                and end, and no other begins.
            evaluations: Take every cell as it becomes trained, and run in between.
        """
        shortages = Shortages(self.store, self.cluster, context.progress)
        configs = [shortages.with_share(self._config(cell)) for cell in cells]
        order = ReleaseOrder(
            configs,
            cost=lambda config: self.seconds[config.cell_id],
            room=remembered(ray.cluster_resources),
            ahead=1 if self.cluster.gpus else READY_FOR_OLD_PROCESSES,
            max_concurrent=self.max_concurrent,
        )
        endings = Endings(self.store, context, order, shortages, evaluations.add)
        space = FreeSpace(self.store.path, context.note)
        halving = Halving(self.store, self.searches.all, context.note)
        choices = Choices(self.store, self.searches, context.note)
        queue = TrialQueue(order, context, space, self.tried_once, choices)
        self._show_plan(cells, configs, context.progress)
        callbacks: list[tune.Callback] = [TrialCallback(endings, evaluations)]
        if self.cluster.shared:
            callbacks.append(RoomCallback(self._room_watch(configs, context)))
        self._fit(queue, CellScheduler(shortages, queue, halving.reported), callbacks)

    def _config(self, cell: Cell) -> TrialConfig:
        config = trial_config(
            cell,
            store=self.store,
            cluster=self.cluster,
            reserved=self.reserved[cell.id],
            data=self.data,
            weights=self.weights,
            macs=self.macs[cell.id],
        )
        return replace(config, trials=self.searches.trials_of(cell.id))

    def _show_plan(
        self, cells: Sequence[Cell], configs: Sequence[TrialConfig], progress: Progress
    ) -> None:
        for cell, config in zip(cells, configs, strict=True):
            progress.plan(cell.id, resource_request(config).required_resources)
            search = self.searches.of(cell.id)
            if search and stored_choice(self.store, search) is None:
                progress.wait(cell.id, f"the choice for {search.name}")
            elif teacher := waits_for(self.store, cell):
                progress.wait(cell.id, teacher)

    def _room_watch(self, configs: Sequence[TrialConfig], context: LaunchContext) -> RoomWatch:
        needs = [(each.cpu * each.workers, each.gpu * each.workers) for each in configs]
        return RoomWatch(self.cluster.where, needs, context.progress.has_work, context.note)

    def _fit(
        self, queue: TrialQueue, scheduler: CellScheduler, callbacks: list[tune.Callback]
    ) -> None:
        traces, name = self._tune_folder(), f"launch-{time.time_ns()}"
        tuner = tune.Tuner(
            FinetuneTrainable,
            tune_config=tune.TuneConfig(
                search_alg=CellSearch(queue),
                scheduler=scheduler,
                reuse_actors=True,
                trial_name_creator=_cell_id,
                trial_dirname_creator=_cell_id,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(traces),
                callbacks=callbacks,
                # The states are in the store; Tune's checkpoints would be copies.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        withhold_credentials()
        count_no_callbacks()
        try:
            tuner.fit()
        finally:
            shutil.rmtree(traces / name, ignore_errors=True)
            with suppress(OSError):  # It may hold files of others.
                traces.rmdir()

    def _tune_folder(self) -> Path:
        """Return where Tune leaves its files: in the store's folder, else in one of this node.

        Nothing reads them. Those of a launch that was killed are removed.
        """
        traces = self.store.path / "tune"
        if not isinstance(traces, Path):
            return Path(mkdtemp(prefix="tune-"))
        for launch in traces.glob("launch-*"):
            shutil.rmtree(launch, ignore_errors=True)
        return traces.absolute()


def trial_config(
    cell: Cell,
    *,
    store: Store,
    cluster: Cluster,
    reserved: Reservation,
    data: Path | None,
    weights: Path | None,
    macs: float = 0.0,
) -> TrialConfig:
    """Return the configuration of a cell's trial.

    Args:
        cell: What is trained.
        store: The study's store.
        cluster: Where it is trained.
        reserved: What it reserves.
        data: Folder of the datasets.
        weights: Folder of pretrained weights.
        macs: Multiply-accumulates of the training, for the record.

    Raises:
        UserError: The cluster has no room for what the cell reserves.
    """
    room = cluster.room(reserved.cpu, reserved.gpu)
    if room < reserved.workers:
        raise UserError(
            f"resources.{cell.capacity} asks for {reserved}, but "
            f"the nodes of {cluster} have room for {room} such workers"
        )
    root = dataset_root(cell.dataset, data)
    teacher = store.cell(cell.prerequisite).path if cell.prerequisite else None
    return TrialConfig(
        cell_id=cell.id,
        cell=cell.model_dump_json(),
        folder=str(store.cell(cell.id).path.absolute()),
        stop_file=str(store.stop_file.absolute()),
        index_folder=str(store.datasets.absolute()),
        code=driver_digest(),
        data_root=str(root.absolute()) if root else None,
        weights=str(weights) if weights else None,
        prerequisite=cell.prerequisite,
        teacher_folder=str(teacher.absolute()) if teacher else None,
        threads=max(1, int(reserved.cpu)),
        macs=macs,
        cpu=reserved.cpu,
        gpu=reserved.gpu,
        workers=reserved.workers,
    )


def _cell_id(trial: Trial) -> str:
    return str(trial.trial_id)
