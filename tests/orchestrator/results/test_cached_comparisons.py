"""What comparing has found is kept, in a folder and in an object store, and trusted if whole."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.records import CellRecord
from orchestrator.results.cached_comparisons import CachedComparisons, jobs
from trainables.storage.files import write_atomic

A = CellRecord(
    cell_id="d-topk-tiny-r0.5-s0-a", dataset="d", method="topk", family="pruning", capacity="tiny",
    keep_rate=0.5, stages=(3, 6), seed=0, state="done",
)  # fmt: skip
B = replace(A, cell_id="d-topk-tiny-r0.25-s0-b", keep_rate=0.25)
EVALUATIONS = {A.cell_id: "1", B.cell_id: "2"}
FACTS = {"pruning": [[{"iou_mean": 0.1 + 0.2, "note": None}, {"iou_mean": float("nan")}]]}


@pytest.fixture
def made():
    """Return the jobs of two cells: each by itself, and the pair."""
    return jobs([A, B], EVALUATIONS, ["models", "rates"])


def test_jobs_are_cells_then_pairs(made):
    assert [job.name for job in made] == [A.cell_id, B.cell_id, f"{A.cell_id} with {B.cell_id}"]
    assert [job.comparison for job in made] == [None, None, "rates"]


def test_a_key_covers_all_that_the_outcome_depends_on(made, monkeypatch):
    pair = made[-1]
    others = [
        *(jobs([A, B], EVALUATIONS | {cell: "3"}, ["rates"])[-1] for cell in EVALUATIONS),
        jobs([A, B], EVALUATIONS, ["rates"], ("pruning",))[-1],
        replace(pair, comparison="models"),
    ]
    keys = [job.key for job in (*made, *others)]
    monkeypatch.setattr("orchestrator.results.cached_comparisons.measuring", lambda: "other code")
    keys.append(replace(pair).key)
    assert len(set(keys)) == len(keys) == 8
    assert jobs([A, B], EVALUATIONS, ["rates"])[-1].key == keys[-1]


def test_what_is_found_is_kept_exactly(store_folder, made):
    findings = CachedComparisons(store_folder / "comparisons")
    assert findings.read() == []
    for job in made:
        findings.add(job, FACTS)
    findings.save()
    again = CachedComparisons(store_folder / "comparisons")
    assert again.read() == []
    ((first, second),) = again.get(made[-1])["pruning"]
    assert first == {"iou_mean": 0.1 + 0.2, "note": None}
    assert np.isnan(second["iou_mean"])


def test_only_what_is_wanted_stays(store_folder, made):
    folder = store_folder / "comparisons"
    findings = CachedComparisons(folder)
    for job in made:
        findings.add(job, FACTS)
    findings.keep_only(made[1:2])  # The second cell's file has the pair, too.
    assert [path.stem for path in folder.glob("*.json")] == [B.cell_id]
    again = CachedComparisons(folder)
    again.read()
    assert [again.get(job) is not None for job in made] == [False, True, False]


@pytest.mark.parametrize("content", [b"", b'{"facts": {}}', b'{"facts": {}, "seal": "forged"}'])
def test_what_is_damaged_is_named_and_removed(store_folder, made, content):
    findings = CachedComparisons(store_folder / "comparisons")
    findings.add(made[0], FACTS)
    findings.add(made[1], FACTS)
    findings.save()
    path = store_folder / "comparisons" / f"{A.cell_id}.json"
    write_atomic(path, content)
    again = CachedComparisons(store_folder / "comparisons")
    assert [error.path for error in again.read()] == [path]
    assert not path.exists()
    assert [again.get(job) is not None for job in made] == [False, True, False]
