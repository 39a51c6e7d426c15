"""Evaluates cells beside the training, each as it becomes trained."""

import ray

from orchestrator.cluster.connection import Cluster
from orchestrator.cluster.task_pool import TASK_RETRIES, TaskPool
from orchestrator.console import dataset_root
from orchestrator.results.tasks import Evaluated, evaluate_stored_cell
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.store.verified import Verified
from orchestrator.study.selection import Options
from orchestrator.training.endings import fail
from orchestrator.watching.launch_context import LaunchContext
from orchestrator.watching.status import Activity
from trainables.cell.cell import is_trial

CPUS_PER_EVALUATION = 4
"""CPUs for each evaluation that runs at once: starting its process takes seconds."""


class Evaluations:
    """The evaluations of a launch, as Ray tasks.

    Args:
        context: The launch's.
        store: The study's store.
        options: Say whether cells are evaluated at all, and where data and weights are.
        verified: Records the files that an evaluation writes.
        cluster: Where they run.
        gpu: The largest share of a GPU that a cell reserves, which each evaluation gets, too.
    """

    def __init__(
        self,
        context: LaunchContext,
        store: Store,
        options: Options,
        verified: Verified,
        cluster: Cluster,
        gpu: float,
    ) -> None:
        self._context = context
        self._store = store
        self._options = options
        self._verified = verified
        self._on_gpu = bool(gpu)
        task = ray.remote(
            num_cpus=0,
            num_gpus=gpu,
            max_retries=TASK_RETRIES,
            max_calls=0,  # Without a limit, because importing torch again takes seconds.
        )(evaluate_stored_cell)
        limit = max(1, int(cluster.cpus) // CPUS_PER_EVALUATION)
        self._tasks = TaskPool(task, limit=limit, verb="evaluate")

    def add(self, cell_id: str) -> None:
        """Evaluate a trained cell, if the launch evaluates cells; a trial is done as it is."""
        if is_trial(cell_id):
            self._store.cell(cell_id).discard_states()
            self._context.progress.set_state(cell_id, CellState.DONE)
            return
        if "evaluate" not in self._options.phases:
            self._context.progress.set_state(cell_id, CellState.TRAINED)
            return
        stored = self._store.cell(cell_id)
        stored.clear_error()
        self._context.progress.set_state(cell_id, Activity.EVALUATING)
        root = dataset_root(stored.cell().dataset, self._options.data)
        study = self._store.path.absolute()
        weights = self._options.weights
        self._tasks.submit(cell_id, study, cell_id, root, weights, self._on_gpu)

    def tick(self) -> None:
        """Take the evaluations that have ended; do what else is due."""
        for cell_id, outcome in self._tasks.poll():
            self._take(cell_id, outcome)
        self._context.tick()

    def finish(self) -> None:
        """Wait for all evaluations, unless the launch is stopping."""
        context = self._context
        left = self._tasks.outcomes(stopping=lambda: context.stopping, tick=context.tick)
        for cell_id, outcome in left:
            self._take(cell_id, outcome)

    def _take(self, cell_id: str, outcome: Evaluated | Exception) -> None:
        if isinstance(outcome, Exception):
            self._fail(cell_id, outcome)
            return
        self._verified.add(outcome.entries)
        for note in outcome.notes:
            self._context.note(f"{cell_id}: {note}")
        self._context.progress.set_state(cell_id, CellState.DONE)

    def _fail(self, cell_id: str, error: Exception) -> None:
        stored = self._store.cell(cell_id)
        fail(stored, self._context.progress, f"evaluation failed; the last time:\n{error}")
        self._context.note(f"{cell_id}: evaluation failed; see {stored.error_file}")
