"""The phases of a launch that need Ray: train, evaluate each trained cell, compare, measure."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray

from orchestrator.cluster.connection import Cluster, connected
from orchestrator.cluster.own_methods import check_own_methods
from orchestrator.cluster.ray_watch import ray_watched
from orchestrator.console import command_line
from orchestrator.results.comparing import write_samples, write_tables
from orchestrator.results.comparison_context import ComparisonContext, ComparisonError
from orchestrator.results.measuring_tasks import measure_all
from orchestrator.results.speed_jobs import can_be_measured
from orchestrator.store.saving import saved_in_words
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import StoredCell
from orchestrator.store.verified import Verified
from orchestrator.study.estimates import DiskPeak, Estimates
from orchestrator.study.selection import Options, Selection
from orchestrator.study.work import Remaining, stored_cells
from orchestrator.training.calibrating import Calibrating, Calibrations
from orchestrator.training.endings import GIVEN_UP
from orchestrator.training.evaluations import Evaluations
from orchestrator.training.expected import expected
from orchestrator.training.experiment import TuneExperiment
from orchestrator.training.shares import Hardware, Reservation
from orchestrator.watching.cell_logs import CellLogs
from orchestrator.watching.launch_context import LaunchContext
from orchestrator.watching.nodes import Nodes
from orchestrator.watching.progress import Progress, StatusPublisher
from orchestrator.watching.prometheus import StudyMetrics
from orchestrator.watching.wandb_tracker import WandbTracker, wandb_settings
from trainables.storage.files import write_atomic

METRICS_SECONDS = 5.0
"""Ray forgets a metric that was not reported for 20 s."""
TOKEN_HINT = "(if it asks for a token: ray get-auth-token)"  # noqa: S105 - It is none.


@dataclass(frozen=True)
class ClusterPhases:
    """What is left of these phases in one launch."""

    selection: Selection
    options: Options
    work: Remaining
    estimates: Estimates
    context: LaunchContext
    verified: Verified

    def run(self, address: str | None) -> bool:
        """Connect to the Ray at `address` and do what is left.

        Returns:
            Whether comparing and measuring worked.
        """
        options, context = self.options, self.context
        with (
            tracked(context.progress, self.selection.store, self.selection.study.name),
            connected(address, verbose=options.verbose, dashboard=options.dashboard) as cluster,
            ray_watched(lambda part: self._ray_lost(part, address), self._sockets_removed),
            _watched(context.progress),
        ):
            context.interrupts.listen()
            context.note(f"{self.selection.study.name}: running on {cluster}")
            if cluster.dashboard:
                context.note(f"Ray's dashboard: {cluster.dashboard} {TOKEN_HINT}")
                context.note(f"metrics for Prometheus: {cluster.metrics}")
            check_own_methods(cell.method for cell in self.selection.selected)
            self._show_fallbacks()
            reserved = self._reserved()
            self._check_disk(cluster, reserved)
            if not context.stopping:
                self._train_and_evaluate(cluster, reserved)
            compares = (self.work.compare or self.work.sample) and not context.stopping
            compared = not compares or self._compare(cluster)
            measures = self.work.measure and not context.stopping
            return (not measures or self._measure()) and compared

    def _measure(self) -> bool:
        store, options = self.selection.store, self.options
        jobs = [j for j in self.work.measure if can_be_measured(store, j.configuration)]
        return measure_all(store, jobs, options.data, options.weights, self.context)

    def _ray_lost(self, part: str, address: str | None) -> None:
        self.context.progress.stop()
        where = f"the Ray cluster at {address}" if address else "the Ray on this machine"
        then = "Once it is back, resume" if address else "Resume"
        saved = saved_in_words(map(self.selection.stored, self.selection.selected))
        self.context.note(f"lost the {part} of {where}; {saved}. {then} with: {command_line()}")

    def _sockets_removed(self, folder: Path) -> None:
        self.context.note(
            f"Ray's sockets in {folder} were removed, as programs do that clean temporary folders: "
            "no process can start; running cells save and end"
        )
        self.context.interrupts.stop()

    def _show_fallbacks(self) -> None:
        for cell in self.selection.selected:
            if changes := self.selection.store.cell(cell.id).gentler():
                self.context.progress.use_fallback(cell.id, changes)

    def _reserved(self) -> dict[str, Reservation]:
        """Return what each cell reserves, by id, after calibrating the cells that need it."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return Calibrating(
            study=self.selection.study,
            hardware=Hardware.of(nodes),
            known=Calibrations(self.selection.store.calibrations),
            weights=self.options.weights,
            context=self.context,
        ).reserved([*self.work.train, *self.work.evaluate])

    def _check_disk(self, cluster: Cluster, reserved: Mapping[str, Reservation]) -> None:
        """Print a line if the disk may fill up before the cells are done."""
        disk = self.estimates.disk
        shares = [reserved[cell.id] for cell in self.work.train]
        rooms = [cluster.room(each.cpu, each.gpu) // each.workers for each in shares]
        peak = DiskPeak.of(
            [disk[cell.id] for cell in self.work.train],
            [disk[cell.id] for cell in self.work.evaluate],
            at_once=min(max(rooms, default=0), self.options.max_concurrent or len(rooms)),
        )
        if shortage := peak.shortage(self.selection.store.path):
            self.context.note(shortage)

    def _train_and_evaluate(self, cluster: Cluster, reserved: dict[str, Reservation]) -> None:
        gpu = max((share.gpu for share in reserved.values()), default=0.0)
        store = self.selection.store
        evaluations = Evaluations(self.context, store, self.options, self.verified, cluster, gpu)
        for cell in self.work.evaluate:
            evaluations.add(cell.id)
        if self.work.train:
            self._train(cluster, reserved, evaluations)
        evaluations.finish()

    def _train(
        self, cluster: Cluster, reserved: dict[str, Reservation], evaluations: Evaluations
    ) -> None:
        store, progress = self.selection.store, self.context.progress
        seconds = expected(self.selection, self.work.train, self.estimates.macs)
        # The part of a GPU that a cell takes counts, because cells share GPUs.
        progress.expect({cell: s * reserved[cell].share for cell, s in seconds.items()})
        failed = [cell.id for cell in self.work.train if _has_failed(store.cell(cell.id))]
        if self.options.retry_failed:
            for cell_id in failed:
                store.cell(cell_id).forget_attempts()
        TuneExperiment(
            store=store,
            cluster=cluster,
            reserved=reserved,
            seconds=seconds,
            macs=self.estimates.macs,
            data=self.options.data,
            weights=self.options.weights,
            tried_once=frozenset() if self.options.retry_failed else frozenset(failed),
            max_concurrent=self.options.max_concurrent,
            searches=self.selection.searches,
        ).run(self.work.train, self.context, evaluations)

    def _compare(self, cluster: Cluster) -> bool:
        store, cells = self.selection.store, stored_cells(self.selection)
        context = ComparisonContext(max(1, int(cluster.cpus)), self.context)
        if self.work.compare and not self._succeeds(
            partial(write_tables, store, cells, context), "the tables are unchanged"
        ):
            return False
        sampling = partial(write_samples, store, cells, self.options.data, context)
        return not self.work.sample or self._succeeds(sampling, "the page has no new images")

    def _succeeds(self, step: Callable[[], None], otherwise: str) -> bool:
        file = self.selection.store.comparison_error
        try:
            step()
        except ComparisonError as error:
            if error.damaged is not None:
                self.verified.forget(error.damaged)
            write_atomic(file, error.details.encode())
            self.context.note(f"{error}; {otherwise}; see {file}")
            return False
        file.unlink(missing_ok=True)
        return True


def _has_failed(cell: StoredCell) -> bool:
    """Return whether a cell has used up attempts of its own."""
    return cell.error() is not None and cell.last_event() not in GIVEN_UP


@contextmanager
def _watched(progress: Progress) -> Iterator[None]:
    """Give the progress the state of the cluster, and Prometheus the progress."""
    nodes = progress.cluster = Nodes()
    with progress.publishing(StatusPublisher("metrics", StudyMetrics(), METRICS_SECONDS)):
        try:
            yield
        finally:
            progress.cluster = nodes.last


@contextmanager
def tracked(progress: Progress, store: Store, study: str) -> Iterator[None]:
    """Let trackers follow a study: logs in the store, and W&B if the environment asks for it.

    Raises:
        UserError: The environment asks W&B for what it does not have.
    """
    folder = store.path if isinstance(store.path, Path) else Path.cwd()
    settings = wandb_settings(os.environ, folder)
    with ExitStack() as stack:
        progress.follow(stack.enter_context(CellLogs(store, progress.note)))
        if settings:
            runs = WandbTracker(settings, store, study, progress.note)
            progress.follow(stack.enter_context(runs))
        yield
