"""A teacher and its student in one study: selection, failure, retrying, and what is shown."""

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.cluster_phases import _has_failed
from orchestrator.store.store import waits_for
from orchestrator.store.stored_cell import CellState
from orchestrator.study.selection import Options, select, with_teachers
from trainables.storage.files import write_atomic

GRID = {"dataset": ["digits"], "capacity": ["tiny"], "method": ["dynamicvit"], "keep_rate": [0.5]}
SETTINGS = (f"grids={yaml.safe_dump([GRID])}", "recipes.smoke.distillation=dynamicvit")
STUDENT = "*-dynamicvit-*"


def choose(storage, **options):
    return select(Options(storage=storage, study="smoke", settings=SETTINGS, **options))


@pytest.fixture
def created(tmp_path):
    """The study's selection of its student alone, in a store in which nothing is trained."""
    selection = choose(tmp_path, only=[STUDENT])
    selection.store.create({"name": "smoke"}, selection.cells)
    return selection


def declare_trained(stored):
    stored.save_best(b"weights", {})
    stored.write_result({"accuracy": 90.0})


def test_selecting_a_student_selects_its_teacher_until_that_is_trained(created):
    teacher, student = created.selected[1], created.selected[0]
    assert (teacher.method, student.prerequisite) == ("deit", teacher.id)
    assert created.notes() == [
        f"added as teachers because no grid lists them: {teacher.id}",
        f"also selected because selected cells learn from them: {teacher.id}",
    ]
    storage = created.store.path.parent
    evaluating = choose(storage, only=[STUDENT], phases=["evaluate"])
    assert [cell.id for cell in evaluating.selected] == [student.id]
    declare_trained(created.store.cell(teacher.id))
    alone = choose(storage, only=[STUDENT])
    assert [cell.id for cell in alone.selected] == [student.id]
    assert len(alone.notes()) == 1


def test_a_teacher_whose_weights_are_damaged_is_selected_again(created):
    teacher, student = (created.store.cell(created.selected[place].id) for place in (1, 0))
    declare_trained(teacher)
    options = Options(storage=created.store.path.parent, only=[STUDENT])
    alone = choose(options.storage, only=[STUDENT])
    write_atomic(teacher.path / "best" / "model.safetensors", b"damaged")
    teacher.repair()
    assert [cell.id for cell in with_teachers(alone, options).selected] == [student.id, teacher.id]
    declare_trained(student)  # What is trained stays, whatever becomes of its teacher.
    assert len(with_teachers(alone, options).selected) == 1


def test_status_cells_and_dry_run_say_who_is_waited_for(created, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    teacher, storage = created.selected[1].id, str(created.store.path.parent)
    study = [word for setting in SETTINGS for word in ("--set", setting)]
    for command in (
        ["status", storage],
        ["cells", storage],
        ["run", "--study", "smoke", *study, "--storage", storage, "--dry-run"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert not ended.value.code
        printed = capsys.readouterr().out
        assert f"waiting for {teacher}" in printed
    assert f"added as teachers because no grid lists them: {teacher}" in printed
    with pytest.raises(SystemExit):
        main(["status", storage])
    printed = capsys.readouterr().out
    assert "2 cells: 1 waiting, 1 pending" in printed
    assert f"1 waiting for {teacher}" in printed


def test_a_failed_teacher_fails_its_student_and_retrying_mends_both(tmp_path, launch_study):
    student, teacher = (cell.id for cell in choose(tmp_path).cells)
    store = choose(tmp_path).store
    store.cell(teacher).write_error("failed before, so that it has one attempt only")
    in_the_way = store.cell(teacher).path / "best"
    in_the_way.touch()  # No folder of this name can be made now.

    failed = launch_study(tmp_path, study="smoke", settings=SETTINGS)
    assert failed.status == 1
    assert store.cell(teacher).state() is store.cell(student).state() is CellState.FAILED
    assert "attempt failed" not in [entry.get("event") for entry in store.cell(teacher).log()]
    error = store.cell(student).error()
    assert error.startswith(f"not trained because its teacher {teacher} failed (see {store.path}/")
    assert error.count("\n") == 1
    assert error.endswith(" --retry-failed\n")
    assert [entry["event"] for entry in store.cell(student).log()] == ["teacher failed"]
    assert _has_failed(store.cell(teacher))
    assert not _has_failed(store.cell(student))
    assert f"failed: {student}: {error.strip()}" in failed.output

    in_the_way.unlink()
    mended = launch_study(
        tmp_path, study="smoke", settings=SETTINGS, only=[STUDENT], retry_failed=True
    )
    assert mended.status == 0, mended.output
    assert [store.cell(cell).state() for cell in (teacher, student)] == [CellState.DONE] * 2
    assert f"also selected because selected cells learn from them: {teacher}" in mended.output
    terms = store.cell(student).last_report()["loss_terms"]
    assert terms["teacher's logits"] > 0
    assert terms["teacher's tokens"] > 0
    assert waits_for(store, choose(tmp_path).cells[0]) is None
    began = [entry["time"] for entry in store.cell(student).log() if "epoch" in entry]
    assert min(began) > (store.cell(teacher).path / "result.json").stat().st_mtime
