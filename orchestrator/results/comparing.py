"""The comparison stage: evaluated cells, and pairs of them, become the study's tables."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import pandas as pd
import ray

from analysis.comparisons import Comparison, rows
from analysis.records import CellRecord
from analysis.tables import described, results_table, table
from orchestrator.cluster.lane import Lane
from orchestrator.results.driver import IN_FLIGHT_PER_CPU, TASK_RETRIES, Driver, error_of
from orchestrator.results.findings import Findings, Job, jobs
from orchestrator.results.records import record_of, records_at_all_rates
from orchestrator.results.statistics import statistics
from orchestrator.results.tables import fingerprint, publish_tables
from orchestrator.results.tasks import find_facts, load_cell
from orchestrator.storage.store import CellState, Store, StoredCell
from trainables.store_path import StorePath

COMPARISONS: tuple[Comparison, ...] = ("models", "rates", "capacity")
"""What the compared cells differ in."""

COMPARED_TABLES = ("pruning", "merging", "features")
DESCRIBED_TABLES = ("tokens", "depth_maps")
"""Tables that Ray tasks fill; the others follow from these and from the cells' records."""


def write_tables(store: Store, cells: Sequence[StoredCell], driver: Driver) -> None:
    """Compare all evaluated cells and write every table, then the record that vouches for them.

    What an earlier comparison has found is not looked for again. Nothing is written but what was
    found where the driver is asked to stop.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        driver: What the launch offers.

    Raises:
        ComparisonError: A task failed.
    """
    inputs = fingerprint(cells)
    by_id = {cell.id: cell for cell in cells}
    done = [r for r in map(record_of, cells) if r.state == CellState.DONE]
    evaluations = {r.cell_id: by_id[r.cell_id].evaluations()[None].digest() for r in done}
    all_jobs = jobs(done, evaluations, COMPARISONS)
    findings = Findings(store.comparisons)
    for error in findings.read():
        driver.say(f"{error}; it is made again")
    if not find(store, all_jobs, findings, driver):
        return
    results = results_table(row for cell in cells for row in records_at_all_rates(cell))
    compared = _tables(all_jobs, findings)
    summed_up = statistics(results, compared, done, driver)
    if summed_up is None:
        return
    publish_tables(store, {"results": results} | compared | summed_up, inputs)
    findings.keep_only(all_jobs)


def find(store: Store, all_jobs: Sequence[Job], findings: Findings, driver: Driver) -> bool:
    """Do the jobs that are not done yet, as Ray tasks; tell whether that came to its end.

    What is found is kept as it comes, also where a task fails or the driver is interrupted.

    Args:
        store: The study's store.
        all_jobs: What there is to do: which cells and pairs, and by which metrics.
        findings: What is done already, and where to keep what is found.
        driver: What the launch offers.

    Raises:
        ComparisonError: A task failed.
    """
    to_do = _in_order_of_work([job for job in all_jobs if findings.get(job) is None])
    loaded = LoadedCells(store.path.absolute(), to_do)
    task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(find_facts)
    lane = Lane(task, driver.cpus * IN_FLIGHT_PER_CPU, "compare")
    under_way: dict[str, Job] = {}
    try:
        while (to_do or lane) and not driver.stopping():
            while to_do and lane.has_room:
                job = to_do.popleft()
                under_way[job.name] = job
                lane.submit(job.name, job.kinds, *map(loaded.get, job.cells))
            for name, outcome in lane.poll(seconds=0.2):
                if isinstance(outcome, Exception):
                    raise error_of(name, outcome) from outcome
                findings.add(under_way[name], outcome)
                loaded.release(under_way.pop(name))
            left = len(to_do) + len(lane)
            driver.tell(len(all_jobs) - left, len(all_jobs))
    finally:
        lane.abandon()
        findings.save()
    return not (to_do or under_way)


def _in_order_of_work(to_do: Iterable[Job]) -> deque[Job]:
    """Sort jobs so that each cell's are near each other, dataset by dataset."""
    to_do = list(to_do)
    cells = dict.fromkeys(cell.cell_id for job in to_do for cell in job.cells)
    places = {cell_id: place for place, cell_id in enumerate(cells)}
    datasets = dict.fromkeys(job.cells[0].dataset for job in to_do)
    order = {dataset: place for place, dataset in enumerate(datasets)}

    def when(job: Job) -> tuple[int, int]:
        return order[job.cells[0].dataset], max(places[cell.cell_id] for cell in job.cells)

    return deque(sorted(to_do, key=when))


class LoadedCells:
    """Arrays of cells in Ray's object store, from the first job that needs them to the last.

    Each cell is read once, by a task, and then shared by all processes of a node without a copy.
    Ray moves what does not fit into memory to its disk.

    Args:
        study: The study's folder.
        to_do: The jobs that there are.
    """

    def __init__(self, study: StorePath, to_do: Iterable[Job]) -> None:
        self._study = study
        self._needed_by = Counter(cell.cell_id for job in to_do for cell in job.cells)
        self._loaded: dict[str, ray.ObjectRef] = {}
        self._load = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(load_cell)

    def get(self, cell: CellRecord) -> ray.ObjectRef:
        """Return a cell's arrays, to be passed to a task."""
        if cell.cell_id not in self._loaded:
            load = self._load.options(name=f"load {cell.cell_id}")
            self._loaded[cell.cell_id] = load.remote(self._study, cell)
        return self._loaded[cell.cell_id]

    def release(self, job: Job) -> None:
        """Let go of cells that no job needs any more, now that one is done."""
        for cell in job.cells:
            self._needed_by[cell.cell_id] -= 1
            if not self._needed_by[cell.cell_id]:
                del self._loaded[cell.cell_id]


def _tables(all_jobs: Sequence[Job], findings: Findings) -> dict[str, pd.DataFrame]:
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
