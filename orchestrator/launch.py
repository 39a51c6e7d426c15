"""The stages of a launch that need Ray: train, evaluate each cell as it is trained, compare."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import ray

from orchestrator.cluster.connection import Cluster, connected
from orchestrator.cluster.lane import Lane
from orchestrator.cluster.nodes import Nodes
from orchestrator.cluster.ray_watch import ray_watched
from orchestrator.command import command_line
from orchestrator.data.datasets import dataset_root
from orchestrator.forecast import Forecast
from orchestrator.interrupts import Interrupts
from orchestrator.packing.calibrating import Calibrating, Calibrations
from orchestrator.packing.sharing import Hardware, Reserved
from orchestrator.results.comparing import write_tables
from orchestrator.results.driver import ComparisonError, Driver
from orchestrator.results.sampling import write_samples
from orchestrator.results.tasks import evaluate_cell
from orchestrator.selection import Options, Selection
from orchestrator.storage.disk_need import DiskPeak
from orchestrator.storage.store import CellState, StoredCell
from orchestrator.storage.verified import Verified
from orchestrator.tracking.following import tracked
from orchestrator.training.expected import expected
from orchestrator.training.stage import TEACHER_FAILED, Training
from orchestrator.watching.metrics import StudyMetrics
from orchestrator.watching.progress import Progress, Sink
from orchestrator.watching.status import Activity
from orchestrator.work import Work, stored_cells
from trainables.files import write_atomic

CPUS_PER_EVALUATION = 4
"""One more evaluation runs at once for so many CPUs: its process costs seconds to start."""
TASK_RETRIES = 5
"""How often an evaluation is repeated whose process dies, alone or with its node."""
METRICS_SECONDS = 5.0
"""Ray forgets what it was not told for 20 s."""
TOKEN_HINT = "(if it asks for a token: ray get-auth-token)"  # noqa: S105 - It is none.


@dataclass
class Launch:
    """One run of a study's stages on a cluster."""

    selection: Selection
    options: Options
    work: Work
    forecast: Forecast
    interrupts: Interrupts
    progress: Progress
    verified: Verified
    evaluations: Lane = field(init=False)

    def go(self, address: str | None) -> bool:
        """Connect to the Ray at `address`, do what is left; tell whether comparing succeeded."""
        options, selection = self.options, self.selection
        with (
            tracked(self.progress, selection.store, selection.study.name),
            connected(address, verbose=options.verbose, dashboard=options.dashboard) as cluster,
            ray_watched(lambda part: self._ray_lost(part, address)),
            self._watched(),
        ):
            self.interrupts.listen()
            self.progress.note(f"{selection.study.name}: running on {cluster}")
            if cluster.dashboard:
                self.progress.note(f"Ray's dashboard: {cluster.dashboard} {TOKEN_HINT}")
                self.progress.note(f"metrics for Prometheus: {cluster.metrics}")
            reserved = self._reserved()
            self._look_at_the_disk(cluster, reserved)
            if self.interrupts.requested:
                return True
            gpu = max((share.gpu for share in reserved.values()), default=0.0)
            evaluate = ray.remote(
                num_cpus=0,
                num_gpus=gpu,
                max_retries=TASK_RETRIES,
                max_calls=0,  # A process that has imported torch serves the next cell, too.
            )(evaluate_cell)
            self.evaluations = Lane(
                evaluate,
                limit=max(1, int(cluster.cpus) // CPUS_PER_EVALUATION),
                verb="evaluate",
            )
            for cell in self.work.evaluate:
                self._evaluate(cell.id, bool(gpu))
            if self.work.train and not self.interrupts.requested:
                self._train(cluster, reserved)
            self._finish_evaluations()
            if (self.work.compare or self.work.sample) and not self.interrupts.requested:
                return self._compare(cluster)
        return True

    def _ray_lost(self, part: str, address: str | None) -> None:
        self.progress.stop()
        where = f"the Ray cluster at {address}" if address else "the Ray on this machine"
        then = "Once there is one again, resume" if address else "Resume"
        self.progress.note(
            f"lost the {part} of {where}; everything is saved. {then} with: {command_line()}"
        )

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Let the progress know the cluster, and Prometheus the progress."""
        nodes = self.progress.cluster = Nodes()
        for cell in self.selection.selected:
            if changes := self._stored(cell.id).gentler():
                self.progress.train_gentler(cell.id, changes)
        with self.progress.telling(Sink("metrics", StudyMetrics(), METRICS_SECONDS)):
            try:
                yield
            finally:
                self.progress.cluster = nodes.last

    def _reserved(self) -> dict[str, Reserved]:
        """Return what each cell reserves, by id; calibrate where that is left to a calibration."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return Calibrating(
            study=self.selection.study,
            hardware=Hardware.of(nodes),
            known=Calibrations(self.selection.store.calibrations),
            weights=self.options.weights,
            progress=self.progress,
            stopping=lambda: self.interrupts.requested,
        ).reserved([*self.work.train, *self.work.evaluate])

    def _look_at_the_disk(self, cluster: Cluster, reserved: Mapping[str, Reserved]) -> None:
        disk = self.forecast.disk
        shares = [reserved[cell.id] for cell in self.work.train]
        rooms = [cluster.room(each.cpu, each.gpu) // each.workers for each in shares]
        peak = DiskPeak.of(
            [disk[cell.id] for cell in self.work.train],
            [disk[cell.id] for cell in self.work.evaluate],
            at_once=min(max(rooms, default=0), self.options.max_concurrent or len(rooms)),
        )
        if shortage := peak.shortage(self.selection.store.path):
            self.progress.note(shortage)

    def _train(self, cluster: Cluster, reserved: dict[str, Reserved]) -> None:
        store = self.selection.store
        on_gpu = any(share.gpu for share in reserved.values())
        seconds = expected(self.selection, self.work.train, self.forecast.macs)
        # Where cells share a GPU, what they take of it counts.
        self.progress.expect({cell: s * reserved[cell].share for cell, s in seconds.items()})
        failed = [cell.id for cell in self.work.train if _has_failed(store.cell(cell.id))]
        if self.options.retry_failed:
            for cell_id in failed:
                store.cell(cell_id).forget_attempts()
        Training(
            store=store,
            cluster=cluster,
            reserved=reserved,
            seconds=seconds,
            macs=self.forecast.macs,
            data=self.options.data,
            weights=self.options.weights,
            given_up_once=frozenset() if self.options.retry_failed else frozenset(failed),
            max_concurrent=self.options.max_concurrent,
        ).run(
            self.work.train,
            interrupts=self.interrupts,
            progress=self.progress,
            on_trained=lambda cell_id: self._evaluate(cell_id, on_gpu),
            on_tick=self._tick,
        )

    def _evaluate(self, cell_id: str, on_gpu: bool) -> None:
        if "evaluate" not in self.options.stages:
            self.progress.set_state(cell_id, CellState.TRAINED)
            return
        stored = self._stored(cell_id)
        stored.clear_error()
        root = dataset_root(stored.cell().dataset, self.options.data)
        self.progress.set_state(cell_id, Activity.EVALUATING)
        self.evaluations.submit(
            cell_id,
            self.selection.store.path.absolute(),
            cell_id,
            root,
            self.options.weights,
            on_gpu,
        )

    def _finish_evaluations(self) -> None:
        while self.evaluations and not self.interrupts.requested:
            self._tick(seconds=0.2)
        self.evaluations.abandon()

    def _tick(self, seconds: float = 0.0) -> None:
        for cell_id, outcome in self.evaluations.poll(seconds):
            if isinstance(outcome, Exception):
                self._evaluation_failed(cell_id, outcome)
            else:
                self.verified.add(outcome.entries)
                for words in outcome.notes:
                    self.progress.note(f"{cell_id}: {words}")
                self.progress.set_state(cell_id, CellState.DONE)
        self.interrupts.tell_cells()
        self.progress.tick()

    def _evaluation_failed(self, cell_id: str, error: Exception) -> None:
        stored = self._stored(cell_id)
        stored.write_error(f"evaluation failed; the last time:\n{error}")
        self.progress.fail(cell_id, stored.reason(), str(stored.error_file))
        self.progress.note(f"{cell_id}: evaluation failed; see {stored.error_file}")

    def _compare(self, cluster: Cluster) -> bool:
        store, cells = self.selection.store, stored_cells(self.selection)
        driver = Driver(
            cpus=max(1, int(cluster.cpus)),
            stopping=lambda: self.interrupts.requested,
            say=self.progress.note,
            tell=self.progress.compare,
        )
        if self.work.compare and not self._succeeds(
            partial(write_tables, store, cells, driver), "the tables stay as they were"
        ):
            return False
        sampling = partial(write_samples, store, cells, self.options.data, driver)
        return not self.work.sample or self._succeeds(sampling, "the page has no new images")

    def _succeeds(self, step: Callable[[], None], otherwise: str) -> bool:
        file = self.selection.store.comparison_error
        try:
            step()
        except ComparisonError as error:
            if error.damaged is not None:
                self.verified.forget(error.damaged)
            write_atomic(file, error.details.encode())
            self.progress.note(f"{error}; {otherwise}; see {file}")
            return False
        file.unlink(missing_ok=True)
        return True

    def _stored(self, cell_id: str) -> StoredCell:
        return self.selection.store.cell(cell_id)


def _has_failed(cell: StoredCell) -> bool:
    """Tell whether a cell has used up attempts of its own."""
    return cell.error() is not None and cell.last_event() != TEACHER_FAILED
