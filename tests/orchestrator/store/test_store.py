"""The store: states follow from files, and nothing damaged is trusted."""

import pytest
from made_cells import ATTEMPT, CELL, evaluate

from orchestrator.errors import UserError
from orchestrator.store.store import Store, find_study
from orchestrator.store.stored_cell import CellState
from trainables.cell.not_finite import attempt_in_words
from trainables.storage.files import DamagedFileError


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_cell_is_done_when_it_is_evaluated_at_every_rate(store, stored):
    assert store.cell(CELL.id, (0.25, 0.7)).state() is CellState.TRAINED
    store.create({"name": "study"}, [CELL.model_copy(update={"eval_keep_rates": (0.25, 0.7)})])
    again, before = store.cell(CELL.id), stored.evaluation_digest()
    evaluate(again, 0.7)
    assert again.state() is CellState.TRAINED
    evaluate(again, 0.25)
    assert again.state() is CellState.DONE
    assert again.evaluation_digest() != before
    assert stored.state() is CellState.DONE, "what a study no longer asks for is left alone"


def test_damage_at_another_rate_costs_that_evaluation_alone(store, stored):
    again = store.cell(CELL.id, (0.25, 0.7))
    evaluate(again, 0.25)
    evaluate(again, 0.7)
    path = again.path / "at-r0.7" / "predictions.parquet"
    flip_a_bit(path)
    assert [error.path for error in again.repair()] == [path]
    left = {rate: folder.metrics() is not None for rate, folder in again.evaluations().items()}
    assert left == {None: True, 0.25: True, 0.7: False}
    again.discard_evaluation()
    assert not any(folder.metrics() for folder in again.evaluations().values())


def test_states_follow_the_files(store):
    stored = store.cell(CELL.id)
    assert stored.state() is CellState.PENDING
    stored.save_last(1, b"state")
    assert stored.state() is CellState.INTERRUPTED
    stored.write_error("it broke")
    assert stored.state() is CellState.FAILED
    stored.clear_error()
    stored.save_best(b"weights", {})
    stored.write_result({"accuracy": 1.0})
    assert stored.state() is CellState.TRAINED


def test_a_cell_with_whole_artifacts_is_done(stored):
    assert stored.state() is CellState.DONE
    assert stored.repair() == []
    assert stored.evaluation() == {"accuracy": 50.0}


def test_a_cell_reads_back_as_it_was(store):
    assert store.cell(CELL.id).cell() == CELL
    assert store.cell_ids() == [CELL.id]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("patterns.npz", CellState.TRAINED),
        ("features.npz", CellState.TRAINED),
        ("predictions.parquet", CellState.TRAINED),
        ("best/model.safetensors", CellState.PENDING),
        ("best/meta.json", CellState.PENDING),
        ("result.json", CellState.PENDING),
        ("attempts.json", CellState.PENDING),
    ],
)
def test_what_is_damaged_is_named_and_only_what_came_of_it_redone(stored, name, left):
    flip_a_bit(stored.path / name)
    (damaged,) = stored.repair()
    assert damaged.path == stored.path / name
    assert stored.state() is left


def test_a_missing_artifact_is_damage(stored):
    (stored.path / "patterns.npz").unlink()
    (damaged,) = stored.repair()
    assert str(damaged).endswith("patterns.npz is damaged: it is missing")


def test_a_torn_evaluation_record_is_named(stored):
    record = stored.path / "eval.json"
    record.write_bytes(record.read_bytes()[:-20])
    assert stored.state() is CellState.DAMAGED
    (damaged,) = stored.repair()
    assert damaged.path == record
    assert stored.state() is CellState.TRAINED


def test_a_damaged_state_is_removed_and_the_one_before_it_used(stored):
    stored.save_last(20, b"state of step 20")
    flip_a_bit(stored.path / "last" / "state-00000020.pt")
    assert stored.load_last() == b"state of step 10"
    (damaged,) = stored.repair()
    assert damaged.path.name == "state-00000020.pt"
    assert stored.load_last() == b"state of step 10"


def test_only_the_newest_states_are_kept(stored):
    for step in (20, 30, 40):
        stored.save_last(step, b"state of step %d" % step)
    names = sorted(path.name for path in (stored.path / "last").iterdir())
    assert names == [f"state-000000{s}.{e}" for s in (30, 40) for e in ("json", "pt")]
    assert stored.load_last() == b"state of step 40"


def test_a_result_is_refused_where_the_best_weights_are_damaged(store):
    stored = store.cell(CELL.id)
    stored.save_last(1, b"state")
    stored.save_best(b"weights", {})
    flip_a_bit(stored.path / "best" / "model.safetensors")
    with pytest.raises(Exception, match="model.safetensors is damaged"):
        stored.write_result({"accuracy": 1.0})
    assert stored.state() is CellState.PENDING


def test_attempts_tell_how_gentle_the_training_is_to_be(store):
    stored = store.cell(CELL.id)
    assert (stored.attempts(), stored.gentler()) == ([], None)
    stored.add_attempt(ATTEMPT)
    assert (stored.attempts(), stored.gentler()) == ([ATTEMPT], "clip_grad 1")
    stored.add_attempt(ATTEMPT | {"attempt": 2, "gentler": {"clip_grad": 1.0}})
    assert stored.gentler() == "clip_grad 1, lr 0.0005, min_lr 5e-06, warmup_lr 5e-07"
    assert [entry["event"] for entry in stored.log()] == ["not finite"] * 2
    assert attempt_in_words(stored.attempts()[1]) == (
        "attempt 2 with clip_grad 1 ran from step 0 to 12, where a value was not finite: "
        "classification 1.5, gradient norm inf"
    )


def test_forgetting_attempts_begins_anew(store):
    stored = store.cell(CELL.id)
    stored.save_last(1, b"state")
    stored.forget_attempts()
    assert stored.state() is CellState.INTERRUPTED
    stored.add_attempt(ATTEMPT)
    stored.forget_attempts()
    assert (stored.state(), stored.attempts()) == (CellState.PENDING, [])
    assert [entry["event"] for entry in stored.log()] == ["not finite"]


def test_a_damaged_record_of_attempts_shows(store):
    stored = store.cell(CELL.id)
    stored.add_attempt(ATTEMPT)
    flip_a_bit(stored.path / "attempts.json")
    assert (stored.state(), stored.gentler()) == (CellState.DAMAGED, None)


def test_a_torn_last_line_of_the_log_is_left_out(store):
    stored = store.cell(CELL.id)
    stored.append_log({"epoch": 1})
    with (stored.path / "log.jsonl").open("a") as log:
        log.write('{"epoch": 2, "lo')
    assert stored.last_report()["epoch"] == 1


def test_a_study_is_found_in_its_storage(store, tmp_path):
    assert find_study(store.path).path == store.path
    assert find_study(tmp_path).path == store.path
    Store(tmp_path / "other").create({"name": "other"}, [])
    with pytest.raises(UserError, match="other, .*study; give the folder of one study"):
        find_study(tmp_path)


@pytest.mark.parametrize("content", ["", "name: [", "colour: red"])
def test_a_damaged_record_of_the_study_is_named(store, content):
    (store.path / "study.yaml").write_text(content)
    with pytest.raises(DamagedFileError, match="study.yaml is damaged: it "):
        store.read_study()


def test_a_damaged_record_of_a_cell_is_named_and_written_again(store):
    path = store.cell(CELL.id).path / "cell.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(DamagedFileError, match="cell.json is damaged: it is missing or holds no"):
        store.cell(CELL.id).cell()
    store.create({"name": "study"}, [CELL])
    assert store.cell(CELL.id).cell() == CELL
