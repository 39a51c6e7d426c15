"""What another study of the storage has finished is taken over once it proves whole."""

import os

import pytest
from made_cells import ATTEMPT, CELL, evaluate, finish

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.store.verified import Verified
from orchestrator.study.reuse import left_for_this_study, take_over_cells, trained_elsewhere
from orchestrator.study.selection import Selection
from trainables.storage import sealed
from trainables.storage.files import read_sealed_json, write_sealed_json


def selection_of(storage, *cells, name="new"):
    store = Store(storage / name)
    store.create({"name": name}, cells)
    return Selection(None, cells, cells, store)


@pytest.fixture
def take(tmp_path):
    """Return a function that takes over what it can and returns the cell and what was said."""

    def take(cell=CELL):
        selection, said = selection_of(tmp_path, cell), []
        verified = Verified(selection.store.path)
        take_over_cells(selection, verified, said.append)
        verified.save()
        return selection.stored(cell), said

    return take


@pytest.fixture
def other(tmp_path):
    """Return the cell as it is done in another study."""
    selection = selection_of(tmp_path, CELL, name="old")
    return finish(selection.stored(CELL))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    os.unlink(path)  # Or it would be flipped under all names of the file.
    path.write_bytes(data)


def test_a_done_cell_is_taken_over_whole(take, other):
    other.append_log({"epoch": 3})
    taken, said = take()
    assert said == ["1 cell reused from old"]
    assert taken.state() is CellState.DONE
    assert (taken.result(), taken.attempts()) == (other.result(), [ATTEMPT])
    assert taken.load_best() == b"weights"
    assert taken.evaluation_digest() == other.evaluation_digest()
    assert taken.read_artifact("patterns.npz") == other.read_artifact("patterns.npz")
    assert (taken.last_event(), taken.last_report()["epoch"]) == ("taken over", 3)
    assert taken.log()[-1]["study"] == "old"
    assert not list(taken.path.glob("last/*")), "resume states stay behind"
    assert take()[1] == [], "what is trained is not taken over again"


def test_big_files_take_no_second_place_on_the_disk(take, other):
    taken, _ = take()
    for name in ("best/model.safetensors", "patterns.npz", "predictions.parquet"):
        assert (taken.path / name).stat().st_ino == (other.path / name).stat().st_ino
    taken.append_log({"epoch": 4})
    assert not other.last_report(), "the log is a copy"
    other.discard_training()
    assert taken.load_best() == b"weights"


def test_without_hard_links_files_are_copied(take, other, monkeypatch):
    def refuse(*names):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    taken, _ = take()
    assert taken.state() is CellState.DONE
    weights = "best/model.safetensors"
    assert (taken.path / weights).stat().st_ino != (other.path / weights).stat().st_ino


def test_what_was_taken_over_is_not_read_again(take, other):
    taken, _ = take()
    verified = Verified(taken.path.parent.parent)
    assert taken.repair(verified.check) == []
    assert verified.files_read == 0


@pytest.mark.parametrize("name", ["best/model.safetensors", "best/meta.json", "result.json"])
def test_a_damaged_training_is_not_taken_over(take, other, name):
    flip_a_bit(other.path / name)
    taken, said = take()
    assert said == [
        f"{other.path / name} is damaged: its content does not match its "
        f"{'recorded SHA-256' if 'model' in name else 'seal'}; it is not reused"
    ]
    assert taken.state() is CellState.PENDING


def test_what_this_study_has_begun_stays_where_the_other_is_damaged(take, other, tmp_path):
    begun = Store(tmp_path / "new").cell(CELL.id)
    begun.save_last(5, b"half way")
    flip_a_bit(other.path / "best" / "model.safetensors")
    taken, _ = take()
    assert taken.load_last() == b"half way"


def test_what_is_done_elsewhere_replaces_what_failed_or_was_begun_here(take, other, tmp_path):
    begun = Store(tmp_path / "new").cell(CELL.id)
    begun.save_last(5, b"half way")
    begun.write_error("out of memory")
    taken, _ = take()
    assert (taken.state(), taken.error(), taken.load_last()) == (CellState.DONE, None, None)


def test_a_damaged_evaluation_alone_is_made_anew(take, other):
    flip_a_bit(other.path / "features.npz")
    taken, said = take()
    assert said == ["1 cell reused from old"]
    assert taken.state() is CellState.TRAINED
    assert not (taken.path / "features.npz").exists()


def test_rates_that_the_other_study_lacks_are_left_to_evaluate(take, other):
    wider = CELL.model_copy(update={"eval_keep_rates": (0.25, 0.7)})
    evaluate(type(other)(other.path, (0.7,)), 0.7)
    taken, _ = take(wider)
    made = {rate: folder.metrics() is not None for rate, folder in taken.evaluations().items()}
    assert made == {None: True, 0.25: False, 0.7: True}


def test_done_is_preferred_and_the_next_is_tried(take, other, tmp_path):
    first = selection_of(tmp_path, CELL, name="first").stored(CELL)
    first.save_best(b"other weights", {})
    first.write_result({"accuracy": 1.0})
    assert take()[1] == ["1 cell reused from old"]
    Store(tmp_path / "new").cell(CELL.id).discard_training()
    flip_a_bit(other.path / "best" / "model.safetensors")
    taken, said = take()
    assert said[-1] == "1 cell reused from first"
    assert (taken.state(), taken.load_best()) == (CellState.TRAINED, b"other weights")


def test_another_cell_under_this_id_is_refused(take, other):
    forged = type(CELL)(**CELL.model_dump() | {"seed": 7})
    other.describe(forged)
    taken, said = take()
    assert said[0].endswith(f"it is not that of {CELL.id}; it is not reused")
    assert taken.state() is CellState.PENDING


def test_artifacts_of_any_name_are_refused(take, other):
    record = read_sealed_json(other.path / "eval.json")
    (other.path.parent / "stolen").write_text("secret")
    write_sealed_json(other.path / "eval.json", record | {"artifacts": {"../stolen": "0"}})
    taken, _ = take()
    assert taken.state() is CellState.TRAINED
    assert not (taken.path.parent / "stolen").exists()


def test_a_crash_in_the_midst_leaves_nothing_that_counts(take, other, tmp_path, monkeypatch):
    shared = sealed.share_file

    def crash(source, target):
        shared(source, target)
        if target.name == "model.safetensors":
            raise KeyboardInterrupt

    monkeypatch.setattr(sealed, "share_file", crash)
    with pytest.raises(KeyboardInterrupt):
        take()
    assert Store(tmp_path / "new").cell(CELL.id).state() is CellState.PENDING
    monkeypatch.undo()
    taken, _ = take()
    assert taken.state() is CellState.DONE
    assert [entry.get("event") for entry in taken.log()].count("taken over") == 1


def test_what_is_done_elsewhere_is_not_left_to_this_study(tmp_path, other):
    student = type(CELL)(**CELL.model_dump() | {"seed": 1})
    selection = selection_of(tmp_path, CELL, student)
    assert list(trained_elsewhere(selection)) == [CELL.id]
    assert left_for_this_study(selection).selected == [student]
