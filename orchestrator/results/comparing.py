"""The comparison phase: compares evaluated cells and writes tables and samples."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd
import ray

from analysis.comparisons import Comparison, rows
from analysis.records import CellRecord
from analysis.tables import described, results_table, table
from orchestrator.cluster.task_pool import TASK_RETRIES, Call
from orchestrator.results.cached_comparisons import CachedComparisons, ComparisonJob, jobs
from orchestrator.results.cell_records import record_of, records_at_all_rates
from orchestrator.results.comparison_context import ComparisonContext
from orchestrator.results.correlating import statistics
from orchestrator.results.job_order import PlacedJob, Stay, Stays, in_order
from orchestrator.results.sample_store import publish_samples
from orchestrator.results.sampling import SampleJob, Samples, make_samples
from orchestrator.results.speed_jobs import speed_tables
from orchestrator.results.table_store import fingerprint, publish_tables
from orchestrator.results.tasks import find_facts, load_cell, sample_images
from orchestrator.results.tuning_table import tuning_tables
from orchestrator.store.evaluation_folder import ARRAYS
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState, StoredCell
from trainables.storage.files import stamp
from trainables.storage.paths import StorePath

COMPARED: tuple[Comparison, ...] = ("models", "rates", "capacity")
"""What the compared cells differ in."""

COMPARED_TABLES = ("pruning", "merging", "features")
DESCRIBED_TABLES = ("tokens", "depth_maps")
"""Tables that Ray tasks fill; the others follow from these and from the cells' records."""

SHARE_OF_OBJECT_STORE = 0.25
"""What the arrays take that comparing wants at once; Ray spills what is too much to disk."""
UNPACKED = {"features": 1.25, "patterns": 3.0}
"""Bytes in memory over those in the file; features with their own moments."""


def write_tables(store: Store, cells: Sequence[StoredCell], context: ComparisonContext) -> None:
    """Compare all evaluated cells and write every table, then the record that vouches for them.

    Results of earlier comparisons are reused. If the launch is stopping, only the results of the
    comparisons are saved.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        context: The launch's.

    Raises:
        ComparisonError: A task failed.
    """
    inputs = fingerprint(cells)
    by_id = {cell.id: cell for cell in cells}
    done = [r for r in map(record_of, cells) if r.state == CellState.DONE]
    evaluations = {r.cell_id: by_id[r.cell_id].evaluations()[None].digest() for r in done}
    all_jobs = jobs(done, evaluations, COMPARED)
    findings = CachedComparisons(store.comparisons)
    for error in findings.read():
        context.launch.note(f"{error}; it will be made again")
    if not find(store, all_jobs, findings, context):
        return
    answers = findings.answers_of(all_jobs)
    results = results_table((row for cell in cells for row in records_at_all_rates(cell)), answers)
    compared = _tables(all_jobs, findings)
    summed_up = statistics(results, compared, done, answers, context)
    if summed_up is None:
        return
    tables = {"results": results} | compared | summed_up
    further = speed_tables(store, cells, tables) | tuning_tables(store)
    publish_tables(store, tables | further, inputs)
    findings.keep_only(all_jobs)


def write_samples(
    store: Store, cells: Sequence[StoredCell], data: Path | None, context: ComparisonContext
) -> None:
    """Make the samples that are missing or have no pictures yet, then seal all of them.

    If the launch is stopping, the samples made so far are kept.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        data: Folder of the datasets, as it was given.
        context: The launch's.

    Raises:
        ComparisonError: A task failed, for another reason than that a dataset is missing.
    """

    def made(jobs: list[SampleJob]) -> Samples:
        calls = [Call(job.setting.file, (job,)) for job in jobs]
        # Nothing is left to compare, but the display has to be drawn.
        yield from context.in_tasks(
            sample_images, calls, "sample", lambda: context.launch.compare(0, 0)
        )

    inputs = fingerprint(cells)
    files = make_samples(store, cells, inputs, data, made)
    if files is not None:
        publish_samples(store, files, inputs)


def find(
    store: Store,
    all_jobs: Sequence[ComparisonJob],
    findings: CachedComparisons,
    context: ComparisonContext,
) -> bool:
    """Run the jobs that are not done yet as Ray tasks; return whether all are done.

    Results are saved as they come, even if a task fails or the launch is interrupted.

    Args:
        store: The study's store.
        all_jobs: All jobs, including those that are done.
        findings: Results so far, to which new ones are added.
        context: The launch's.

    Raises:
        ComparisonError: A task failed.
    """
    to_do = [job for job in all_jobs if findings.get(job) is None]
    cells = {cell.cell_id for job in to_do for cell in job.cells}
    sizes = {cell_id: array_bytes(store.cell(cell_id)) for cell_id in cells}
    bound = ray.cluster_resources()["object_store_memory"] * SHARE_OF_OBJECT_STORE
    steps = in_order(to_do, sizes, bound)
    left = {step.job.name: step for step in steps}
    loaded = LoadedCells(store.path.absolute(), Stays(steps, sizes, bound))

    def tick() -> None:
        context.launch.compare(len(all_jobs) - len(left), len(all_jobs))

    try:
        calls = loaded.calls(steps)
        with closing(context.in_tasks(find_facts, calls, "compare", tick)) as found:
            for name, facts in found:
                step = left.pop(name)
                findings.add(step.job, facts)
                loaded.release(step)
    finally:
        findings.save()
    return not left


def array_bytes(cell: StoredCell) -> float:
    """Return about how much memory a cell's arrays take, from the sizes of their files."""
    paths = {name: cell.path / file for name, file in ARRAYS.items()}
    # Loading will say what is wrong with a missing one.
    return sum(UNPACKED[name] * stamp(path)[0] for name, path in paths.items() if path.is_file())


class LoadedCells:
    """Arrays of cells in Ray's object store, from the first to the last job of a stay.

    A task reads each cell once a stay. All processes of a node then share it without a copy.

    Args:
        study: The study's folder.
        stays: Which cells are wanted.
    """

    def __init__(self, study: StorePath, stays: Stays) -> None:
        self._study, self._stays = study, stays
        self._loaded: dict[Stay, ray.ObjectRef] = {}
        self._load = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(load_cell)

    def calls(self, steps: Iterable[PlacedJob]) -> Iterator[Call | None]:
        """Yield the call of each step, and None while what it needs has no room yet."""
        for step in steps:
            while not self._stays.fits(step):
                yield None
            self._stays.begin(step)
            cells = zip(step.stays, step.job.cells, strict=True)
            yield Call(step.job.name, (step.job.kinds, *(self._get(*of) for of in cells)))

    def _get(self, stay: Stay, cell: CellRecord) -> ray.ObjectRef:
        if stay not in self._loaded:
            load = self._load.options(name=f"load {cell.cell_id}")
            self._loaded[stay] = load.remote(self._study, cell)
        return self._loaded[stay]

    def release(self, step: PlacedJob) -> None:
        """Release the cells whose stay ends with a step that is done."""
        for stay in self._stays.end(step):
            del self._loaded[stay]


def _tables(
    all_jobs: Sequence[ComparisonJob], findings: CachedComparisons
) -> dict[str, pd.DataFrame]:
    """Return the tables, in the order of the jobs, so that they repeat exactly."""
    pairs, cells = [], []
    for job in all_jobs:
        facts = findings.get(job)
        assert facts is not None, f"{job.name} has not been done"
        if job.comparison is None:
            cells.append((job.cells[0], facts))
        else:
            a, b = job.cells
            pairs.append(rows(a, b, job.comparison, facts))
    tables = {
        name: table(name, (row for pair in pairs for row in pair[name])) for name in COMPARED_TABLES
    }
    return tables | {name: described(name, cells) for name in DESCRIBED_TABLES}
