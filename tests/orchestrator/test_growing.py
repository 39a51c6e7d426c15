"""A study that grows, shrinks and changes its name between launches, and during one."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from launching import BRIEFLY, ONE_STEP_EPOCH
from made_cells import finish

from orchestrator import run
from orchestrator.cli import main
from orchestrator.study.selection import Options, select
from orchestrator.training.evaluations import Evaluations
from orchestrator.training.experiment import TuneExperiment

GRID = {
    "dataset": ["digits"],
    "capacity": ["tiny"],
    "method": ["dynamicvit"],
    "keep_rate": [0.5],
}


@pytest.fixture
def study(tmp_path):
    """Return a function that writes a study file with a baseline and topk at some rates."""

    def study(*rates, name="growing", **grid):
        shared = {"dataset": ["digits"], "capacity": ["tiny"]}
        grids = [shared | {"method": ["deit"]}]
        grids += [shared | {"method": ["topk"], "keep_rate": list(rates)} | grid] * bool(rates)
        defaults = {"reduction_loc": [3, 6, 9], "recipe": "r"}
        content = {
            "name": name,
            "defaults": defaults,
            "grids": grids,
            "recipes": {"r": ONE_STEP_EPOCH},
        }
        content["measure"] = BRIEFLY
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        return str(file)

    return study


def trained_at(store):
    """Return when each trained cell of a study was, in nanoseconds, by method and keep rate."""
    return {
        (cell.method, cell.keep_rate): (stored.path / "result.json").stat().st_mtime_ns
        for stored in map(store.cell, store.cell_ids())
        for cell in [stored.cell()]
        if stored.is_trained()
    }


@pytest.mark.slow
def test_a_study_grows_shrinks_and_is_renamed(tmp_path, study, launch_study, monkeypatch):
    file = study(0.5)

    def select_and_spoil(options):
        selection = select(options)
        Path(file).write_text("spoilt: [")  # Read once: the launch goes on without it.
        return selection

    monkeypatch.setattr(run, "select", select_and_spoil)
    first = launch_study(tmp_path, study=file, phases=["train", "evaluate"])
    assert first.status == 0, first.output
    before = trained_at(first.store)
    assert list(before) == [("deit", 1.0), ("topk", 0.5)]
    monkeypatch.undo()

    second = launch_study(tmp_path, study=study(0.7), phases=["train", "evaluate", "compare"])
    assert second.status == 0, second.output
    after = trained_at(second.store)
    assert {key: after.pop(key) for key in before} == before
    assert list(after) == [("topk", 0.7)]
    gone = f"1 cells in {second.store.path} are no longer in the study; their files are kept"
    assert gone in second.output.splitlines()
    results = pd.read_parquet(second.store.tables / "results.parquet")
    assert sorted(results["keep_rate"]) == [0.7, 1.0]

    monkeypatch.setattr(TuneExperiment, "run", None)  # Nothing may be trained.
    monkeypatch.setattr(Evaluations, "add", None)
    renamed = launch_study(tmp_path, study=study(0.5, 0.7, name="renamed"))
    assert renamed.status == 0, renamed.output
    assert "3 cells reused from growing" in renamed.output.splitlines()
    assert renamed.output.splitlines()[-2] == "renamed: 3 of 3 cells done, 0 failed"
    results = pd.read_parquet(renamed.store.tables / "results.parquet")
    assert sorted(results["keep_rate"]) == [0.5, 0.7, 1.0]


def chosen(storage, file, **options):
    """Return what a launch would be about, with its cells described in the store."""
    selection = select(Options(study=file, storage=storage, **options))
    selection.store.create({"name": "growing"}, selection.cells)
    return selection


def test_a_teacher_stays_where_its_own_grid_is_removed(tmp_path, study):
    settings = [
        "recipes.r.distillation=dynamicvit",
        "recipes.r.method={deit: {distillation: none}}",
    ]
    file = study(0.5, method=["dynamicvit"])
    both = chosen(tmp_path, file, settings=settings)
    teacher, student = both.cells
    alone = chosen(tmp_path, file, settings=["grids=" + yaml.safe_dump([GRID]), *settings])
    assert [cell.id for cell in alone.cells] == [student.id, teacher.id]
    assert [cell.id for cell in alone.added] == [teacher.id]
    finish(both.stored(teacher))
    assert [cell.id for cell in alone.unfinished()] == [student.id]


def test_removed_cells_are_left_alone_and_counted(tmp_path, study, launch_study):
    before = chosen(tmp_path, study(0.5, 0.7))
    for cell in before.cells:
        finish(before.stored(cell))
    files = {path: path.read_bytes() for path in before.store.path.glob("cells/*/*.*")}
    after = launch_study(tmp_path, study=study(0.7), phases=["train", "evaluate"])
    assert after.status == 0
    assert after.output.splitlines() == [
        f"1 cells in {after.store.path} are no longer in the study; their files are kept",
        "growing: 2 of 2 cells done, 0 failed",
    ]
    assert {path: path.read_bytes() for path in files} == files
    again = launch_study(tmp_path, study=study(0.5, 0.7), phases=["train", "evaluate"])
    assert again.output.splitlines() == ["growing: 3 of 3 cells done, 0 failed"]


def test_a_dry_run_tells_what_is_done_in_other_studies(tmp_path, study, capsys):
    before = chosen(tmp_path, study(0.5))
    for cell in before.cells:
        finish(before.stored(cell))
    file = study(0.5, 0.7, name="renamed")
    with pytest.raises(SystemExit) as ended:
        main(["run", "--study", file, "--storage", str(tmp_path), "--dry-run"])
    assert not ended.value.code
    printed = capsys.readouterr().out.splitlines()
    assert "to be reused from other studies: 2 cells" in printed
    assert not (tmp_path / "renamed").exists()
