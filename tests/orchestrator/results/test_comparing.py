"""Comparisons go on where they were, look for nothing twice, and read each artifact once."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from contexts import RecordedContext
from launching import Launch, layered

from analysis.tables import SCHEMAS
from experiments.benchmarks.counting_path import CountingPath, reads
from orchestrator.cluster.connection import connected
from orchestrator.results import cached_comparisons as findings
from orchestrator.results import comparing
from orchestrator.results.comparing import write_tables
from orchestrator.results.comparison_context import ComparisonContext, ComparisonError
from orchestrator.store.store import Store
from orchestrator.study.study_file import SHIPPED
from trainables.cell.cell import Cell
from trainables.recipe import Recipe

IMAGES, PATCHES, FEATURES = 40, 16, 5


def cell_of(method, rate, seed=0):
    return Cell(
        dataset="digits",
        method=method,
        capacity="tiny",
        keep_rate=rate,
        reduction_loc=(3, 6),
        seed=seed,
        recipe=Recipe(),
    )


TOPK, LOW, TOME, DEIT = CELLS = [
    *(cell_of("topk", 0.5), cell_of("topk", 0.25), cell_of("tome", 0.5), cell_of("deit", 1.0))
]
"""A pair that differs in its rate, and four that differ in their method."""


def evaluate(store, cell, draw=0):
    """Train and evaluate a cell, as its files tell; `draw` decides what came out."""
    random = np.random.default_rng([draw, CELLS.index(cell) if cell in CELLS else 9])
    order = random.random((IMAGES, PATCHES)).argsort(axis=1).astype(np.uint8)
    patterns = {"image": np.arange(IMAGES), "grid": np.array([4, 4]), "depth": np.array(12)}
    for block, count in ((3, 8), (6, 4)):
        patterns[f"tokens_{block}"] = np.full(IMAGES, count)
        if cell.method == "topk":
            patterns[f"kept_{block}"] = order[:, :count]
        elif cell.method == "tome":
            patterns[f"group_{block}"] = order % count
    blocks = {f"cls_{b}": random.normal(size=(IMAGES, FEATURES)) for b in (3, 6, 11)}
    features = {name: cls.astype(np.float32) for name, cls in blocks.items()}
    stored = store.cell(cell.id)
    stored.save_best(b"weights", {"accuracy": 50.0})
    stored.write_result({"accuracy": 50.0})
    metrics = {"metric": "top1", "accuracy": float(random.uniform(20, 80))}
    classes = {name: random.integers(2, size=IMAGES) for name in ("target", "class_1")}
    predictions = pd.DataFrame({"image": range(IMAGES), **classes})
    arrays = {"patterns": patterns, "features": features}
    stored.evaluations()[None].write(metrics, predictions, arrays)


@pytest.fixture(scope="module")
def ray():
    with connected(None, verbose=False):
        yield


@pytest.fixture
def study(tmp_path):
    """Return a study's store; what is read in it is counted."""
    store = Store(CountingPath(tmp_path) / "study")
    store.create({"name": "study"}, CELLS)
    for cell in CELLS:
        evaluate(store, cell)
    return store


@pytest.fixture
def compare(study, ray, monkeypatch):
    """Return a function that compares the study, and returns the jobs that it did."""
    done = []

    in_tasks = ComparisonContext.in_tasks

    def noting(driver, function, calls, verb, tick):
        for name, outcome in in_tasks(driver, function, calls, verb, tick):
            if verb == "compare":
                done.append(name)
            yield name, outcome

    monkeypatch.setattr(ComparisonContext, "in_tasks", noting)

    def compare(cells=CELLS, stop_after=None, context=None):
        done.clear()
        stopping = lambda: stop_after is not None and len(done) >= stop_after  # noqa: E731
        stored = [study.cell(cell.id) for cell in cells]
        context = context or RecordedContext(stopping)
        write_tables(study, stored, ComparisonContext(cpus=1, launch=context))
        return sorted(done)

    compare.done = done
    return compare


def tables(store):
    return {path.name: path.read_bytes() for path in store.tables.glob("*.parquet")}


def artifacts_read(store):
    times, _ = reads(store.path)
    return {name: count for name, count in times.items() if name.endswith(".npz")}


def jobs(*pairs, cells=()):
    return sorted([cell.id for cell in cells] + [f"{a.id} with {b.id}" for a, b in pairs])


PAIRS = [(TOPK, LOW), (TOPK, TOME), (TOPK, DEIT), (LOW, DEIT), (TOME, DEIT)]


def test_each_artifact_is_read_once_however_many_pairs_it_is_in(study, compare):
    reads(study.path)
    assert compare() == jobs(*PAIRS, cells=CELLS)
    names = [f"cells/{cell.id}/{kind}.npz" for cell in CELLS for kind in ("patterns", "features")]
    assert artifacts_read(study) == dict.fromkeys(names, 1)
    assert compare() == []
    assert artifacts_read(study) == {}


@pytest.mark.parametrize("way", ["stopped", "broken off"])
def test_a_comparison_goes_on_where_it_was_and_ends_the_same(study, compare, way):
    def broken(done, of):
        if done >= 4:
            raise KeyboardInterrupt

    if way == "stopped":
        compare(stop_after=4)
    else:
        with pytest.raises(KeyboardInterrupt):
            compare(context=SimpleNamespace(stopping=False, compare=broken))
    assert not study.tables.exists()
    context = RecordedContext()
    first = 9 - len(compare(context=context))
    assert 4 <= first < 9
    assert context.shown[0][1] >= first
    assert ("comparing", 9, 9) in context.shown
    resumed = tables(study)
    assert set(resumed) == {f"{name}.parquet" for name in SCHEMAS if name != "tuning"}
    for folder in (study.comparisons, study.tables):
        shutil.rmtree(folder)
    assert len(compare()) == 9
    assert tables(study) == resumed


def test_a_changed_cell_costs_its_own_pairs_alone(study, compare):
    compare()
    before = tables(study)
    evaluate(study, TOME, draw=1)
    reads(study.path)
    assert compare() == jobs((TOPK, TOME), (TOME, DEIT), cells=[TOME])
    assert {name.split("/")[1] for name in artifacts_read(study)} == {TOPK.id, TOME.id, DEIT.id}
    changed = tables(study)
    assert changed["pruning.parquet"] == before["pruning.parquet"]
    assert changed["features.parquet"] != before["features.parquet"]
    shutil.rmtree(study.comparisons)
    compare()
    assert tables(study) == changed


def test_a_new_cell_adds_its_own_pairs_and_a_removed_one_takes_them_along(study, compare):
    compare()
    before = tables(study)
    new = cell_of("evit", 0.25)
    study.create({"name": "study"}, [*CELLS, new])
    evaluate(study, new)
    assert compare([*CELLS, new]) == jobs((LOW, new), (DEIT, new), cells=[new])
    assert (study.comparisons / f"{new.id}.json").exists()
    assert compare(CELLS) == []
    assert tables(study) == before
    assert not (study.comparisons / f"{new.id}.json").exists()


def test_other_code_measures_all_anew(compare, monkeypatch):
    compare()
    monkeypatch.setattr(findings, "measuring", lambda: "another version")
    assert len(compare()) == 9


def test_damaged_findings_are_named_and_made_again(study, compare):
    compare()
    before = tables(study)
    torn = study.comparisons / f"{DEIT.id}.json"
    torn.write_bytes(torn.read_bytes()[:-9])
    context = RecordedContext()
    assert compare(context=context) == jobs(*((c, DEIT) for c in CELLS[:3]), cells=[DEIT])
    assert context.notes == [f"{torn} is damaged: it is not valid JSON; it will be made again"]
    assert tables(study) == before


def test_a_damaged_artifact_is_named_and_what_was_found_is_kept(study, compare):
    path = study.cell(TOME.id).path / "patterns.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ComparisonError, match="patterns.npz is damaged.*the next launch") as failed:
        compare()
    assert failed.value.damaged == path
    assert not study.tables.exists()
    path.write_bytes(whole)
    found = len(compare.done)
    assert len(compare()) == 9 - found
    assert set(tables(study)) == {f"{name}.parquet" for name in SCHEMAS if name != "tuning"}


@pytest.mark.parametrize("task", ["load_cell", "find_facts"])
def test_a_process_that_dies_costs_nothing(study, compare, monkeypatch, tmp_path, task):
    work, died = getattr(comparing, task), tmp_path / "died"

    def dying_once(*arguments):
        if not died.exists():
            died.touch()
            os._exit(1)
        return work(*arguments)

    monkeypatch.setattr(comparing, task, dying_once)
    assert compare() == jobs(*PAIRS, cells=CELLS)
    assert died.exists()


@pytest.mark.slow
def test_a_killed_launch_compares_on(finished, tmp_path):
    """It is killed while it waits for a storage that does not let it load one of the cells."""
    store = finished.copy_uncompared(tmp_path)
    smoke = yaml.safe_load((SHIPPED / "smoke.yaml").read_text())
    unreadable = tmp_path / "unreadable"
    unreadable.write_text("EIO *-topk-tiny-r0.5-*")
    room = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 4}'}  # For others while one waits.
    faults = layered(FAULT_READING=str(unreadable))
    launch = Launch(tmp_path, stages="compare", study=smoke, env=faults | room)
    launch.wait_until(lambda: list(store.comparisons.glob("*.json")))
    launch.process.kill()
    launch.process.wait()
    assert not store.tables.exists()
    Launch(tmp_path, stages="compare", study=smoke).end(0)
    finished.assert_same_tables(store)
