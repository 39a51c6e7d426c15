"""Jobs are done once each, in an order in which few cells' arrays are wanted at once."""

from itertools import combinations

import pytest

from analysis.records import CellRecord
from experiments.benchmarks.comparing_order import array_bytes, records_of, replay
from orchestrator.results.cached_comparisons import ComparisonJob, jobs
from orchestrator.results.job_order import Stays, in_order

SIZES = {f"c{number}": 1.0 + number / 10 for number in range(9)}


def cell(name):
    return CellRecord(
        cell_id=name, dataset="d", method=name, family="pruning", capacity="tiny", keep_rate=0.5,
        stages=(3,), seed=0,
    )  # fmt: skip


CELLS = {name: cell(name) for name in SIZES}
SINGLE = [ComparisonJob((of,), ("",)) for of in CELLS.values()]
WORK = SINGLE + [ComparisonJob(pair, ("", "")) for pair in combinations(CELLS.values(), 2)]


@pytest.mark.parametrize("bound", [0.0, 4.0, 6.0, 9.0, 100.0])
@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_no_more_is_wanted_at_once_than_is_allowed(bound, at_once):
    steps = in_order(WORK, SIZES, bound)
    assert sorted(step.job.name for step in steps) == sorted(job.name for job in WORK)
    found = replay(steps, SIZES, bound, at_once)
    # The least that is possible is the two largest cells.
    assert found.wanted <= max(bound, 1.7 + 1.8) + 1e-9
    assert found.reads == len({stay for step in steps for stay in step.stays})
    assert (found.reads == len(CELLS)) == (bound == 100)


def test_a_stay_is_of_its_cells_and_jobs_that_follow_each_other():
    steps = in_order(WORK, SIZES, 6.0)
    for step in steps:
        assert [cell_id for cell_id, _ in step.stays] == [c.cell_id for c in step.job.cells]
    for name in SIZES:
        of_cell = [stay for step in steps for stay in step.stays if stay[0] == name]
        assert of_cell == sorted(of_cell)


def test_what_runs_keeps_its_cells_until_it_ends():
    a, b, c = (CELLS[name] for name in ("c0", "c1", "c2"))
    work = [ComparisonJob(pair, ("", "")) for pair in ((a, b), (b, c))]
    steps = in_order(work, {"c0": 1.0, "c1": 1.0, "c2": 1.0}, 2.0)
    stays = Stays(steps, {"c0": 1.0, "c1": 1.0, "c2": 1.0}, 2.0)
    first, second = steps
    assert stays.begin(first) == list(first.stays)
    assert not stays.fits(second)
    assert stays.end(first) == [("c0", 0)]
    assert stays.fits(second)
    assert stays.begin(second) == [("c2", 0)]
    assert stays.wanted == 2.0


def test_the_published_study_stays_below_a_quarter_of_a_common_object_store():
    records = records_of("paper")
    work = jobs(records, {r.cell_id: "" for r in records}, ("models", "rates", "capacity"))
    assert sum(job.comparison is not None for job in work) == 7668
    sizes = {record.cell_id: array_bytes(record, 50_000) for record in records}
    found = replay(in_order(work, sizes, 10e9), sizes, 10e9, 32)
    assert found.wanted <= 10e9
    assert found.reads < 3 * len(records)
