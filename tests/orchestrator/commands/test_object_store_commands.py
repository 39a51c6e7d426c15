"""What manages a store does so in an object store, too: clean, verify, taking over."""

import pytest
from made_cells import ATTEMPT, CELL, finish

from orchestrator.cli import main
from orchestrator.commands import clean as cleaning
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.store.verified import Verified
from orchestrator.study.reuse import take_over_cells
from orchestrator.study.selection import Selection
from trainables.cell.cell import Cell
from trainables.storage import lease
from trainables.storage.files import write_atomic

FAILED, BEGUN, GONE = (Cell(**CELL.model_dump() | {"seed": seed}) for seed in (1, 2, 3))


@pytest.fixture
def store(s3_folder):
    """A study with a cell done, one failed, one begun, and one that left the study when done."""
    store = Store(s3_folder / "study")
    store.create({"name": "study"}, [CELL, FAILED, BEGUN, GONE])
    finish(store.cell(CELL.id))
    finish(store.cell(GONE.id))
    for cell in (FAILED, BEGUN):
        store.cell(cell.id).save_last(5, b"half way")
    store.cell(FAILED.id).write_error("it broke")
    store.create({"name": "study"}, [CELL, FAILED, BEGUN])
    return store


@pytest.fixture
def call(store, capsys, monkeypatch):
    """Return a function that runs a command on the study; it returns status and lines."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("TOKENSWEEP_CACHE", "/nowhere")
    monkeypatch.setattr(lease, "this_process", lambda: "a test")
    held = lease.Lease
    monkeypatch.setattr(
        "orchestrator.store.driver_lock.Lease", lambda path: held(path, 20.0, beat_seconds=0.1)
    )

    def call(command, *options):
        with pytest.raises(SystemExit) as ended:
            main([command, str(store.path), *options])
        printed = capsys.readouterr()
        return ended.value.code or 0, (printed.out + printed.err).splitlines()

    return call


def everything(store):
    return {name for name, _, _ in store.path.listing()}


@pytest.mark.parametrize(
    ("option", "gone"),
    [
        ("--failed", lambda name: FAILED.id in name and not name.endswith("cell.json")),
        ("--orphans", lambda name: GONE.id in name or name.endswith(".tmp")),
        ("--keep-best", lambda name: "/last/" in name and (CELL.id in name or GONE.id in name)),
    ],
)
def test_clean_removes_what_it_says_and_nothing_else(call, store, monkeypatch, option, gone):
    monkeypatch.setattr(cleaning, "WRITTEN_WITHIN", -1.0)
    write_atomic(store.path / "cells" / CELL.id / ".features.npz.0123abcd.tmp", b"x")
    write_atomic(store.path / "notes.txt", b"mine")
    before = everything(store)
    expected = {name for name in before if gone(name)}
    assert call("clean", option)[0] == 2
    assert everything(store) == before
    status, lines = call("clean", option, "--yes")
    assert status == 0
    assert lines[-1].startswith(f"removed {len(expected)} files, which frees ")
    assert before - everything(store) == expected != set()
    assert store.cell(CELL.id).state() is CellState.DONE
    assert store.cell(BEGUN.id).load_last() == b"half way"
    assert call("clean", option, "--yes") == (0, ["nothing to remove"])


def test_a_study_that_is_run_is_left_alone(call, store):
    with lease.Lease(store.path / "driver.lease", beat_seconds=0.05).held(print, print):
        before = everything(store)
        status, lines = call("clean", "--failed", "--yes")
        assert (status, everything(store)) == (2, before)
    assert f"{store.path} is being run by " in lines[-1]


def test_verify_reads_all_and_removes_what_is_damaged(call, store):
    def last_line():
        status, lines = call("verify")
        return status, lines[-1]

    assert last_line() == (0, "12 files read, 0 damaged")
    path = store.path / "cells" / CELL.id / "patterns.npz"
    write_atomic(path, path.read_bytes()[:-1] + b"!")
    status, lines = call("verify")
    assert (status, lines[0]) == (
        1,
        f"{path} is damaged: its content does not match its recorded SHA-256; removed",
    )
    assert not path.exists()
    assert store.cell(CELL.id).state() is CellState.TRAINED
    assert last_line()[0] == 0


def test_what_another_study_has_done_is_taken_over_whole(store):
    new = Store(store.path.parent / "new")
    new.create({"name": "new"}, [CELL, GONE])
    damaged = store.path / "cells" / GONE.id / "best" / "model.safetensors"
    write_atomic(damaged, b"torn")
    selection, said = Selection(None, [CELL, GONE], [CELL, GONE], new), []
    verified = Verified(new.path)
    assert take_over_cells(selection, verified, said.append)
    assert sorted(said) == [
        "1 cell reused from study",
        f"{damaged} is damaged: its content does not match its recorded SHA-256; it is not reused",
    ]
    taken, other = new.cell(CELL.id), store.cell(CELL.id)
    assert taken.state() is CellState.DONE
    assert (taken.load_best(), taken.attempts()) == (b"weights", [ATTEMPT])
    assert taken.evaluation_digest() == other.evaluation_digest()
    assert taken.repair(verified.check) == []
    assert new.cell(GONE.id).state() is CellState.PENDING
    other.discard_training()
    assert taken.load_best() == b"weights"
