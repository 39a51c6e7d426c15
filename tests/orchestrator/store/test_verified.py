"""What is known to be whole is not read again; what has changed, or is doubted, is."""

import errno
import os
import pickle
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.commands.verify import repair_cells
from orchestrator.store.stored_cell import CellState
from orchestrator.store.verified import Verified, written
from trainables.cell.cell import Cell
from trainables.storage.files import DamagedFileError
from trainables.storage.retry import patience


@pytest.fixture
def launch(store):
    """Do what a launch does first; return how many files it read and what was damaged."""

    def launch(cells) -> tuple[int, list[str]]:
        verified = Verified(store.path)
        damaged = repair_cells(store, cells, verified, Console(quiet=True))
        verified.save()
        return verified.files_read, [error.path.name for error in damaged]

    return launch


def flip_in_silence(path):
    """Change a file as a bad disk does: size, time and inode stay."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_files_are_read_once(stored, cell, launch):
    weights, artifacts = 1, 3
    assert launch([cell]) == (1 + weights + artifacts, [])  # It has a resume state, too.
    assert launch([cell]) == (0, [])
    assert stored.state() is CellState.DONE


def test_what_has_changed_since_is_read_again(stored, cell, launch):
    launch([cell])
    os.utime(stored.path / "patterns.npz", ns=(1, 1))
    assert launch([cell]) == (1, [])
    assert launch([cell]) == (0, [])
    (stored.path / "features.npz").write_bytes(b"torn")
    assert launch([cell]) == (1, ["features.npz"])
    assert stored.state() is CellState.TRAINED


def test_a_missing_file_is_damage_whatever_is_known_of_it(stored, cell, launch):
    launch([cell])
    (stored.path / "best" / "model.safetensors").unlink()
    assert launch([cell]) == (0, ["model.safetensors"])


def test_what_a_launch_has_written_is_not_read_by_the_next(store, stored, cell, launch):
    verified = Verified(store.path)
    verified.add(written(store.path, stored))
    verified.save()
    assert launch([cell]) == (0, [])


def test_a_silent_flip_in_a_failed_cell_or_its_teacher_is_found(store, stored, cell, launch):
    student = Cell(**cell.model_dump() | {"seed": 1, "prerequisite": cell.id})
    store.create({"name": "study"}, [cell, student])
    launch([cell, student])
    flip_in_silence(stored.path / "best" / "model.safetensors")
    assert launch([cell, student]) == (0, [])
    store.cell(student.id).write_error("the teacher's weights are damaged")
    read, damaged = launch([cell, student])
    assert (read > 0, damaged) == (True, ["model.safetensors"])
    assert stored.state() is CellState.PENDING


def test_a_file_that_proved_damaged_in_use_is_read(store, stored, cell, launch):
    launch([cell])
    path = stored.path / "patterns.npz"
    flip_in_silence(path)
    assert launch([cell]) == (0, [])
    verified = Verified(store.path)
    repair_cells(store, [cell], verified, Console(quiet=True))
    verified.forget(path.absolute())
    verified.save()
    assert launch([cell]) == (1, ["patterns.npz"])


@pytest.mark.parametrize("content", [b"", b'{"files": {}, "seal": "forged"}'])
def test_a_damaged_record_costs_reading_alone(store, stored, cell, launch, content):
    launch([cell])
    (store.path / "verified.json").write_bytes(content)
    assert launch([cell]) == (5, [])
    assert launch([cell]) == (0, [])


def test_a_damaged_file_is_told_by_another_process(tmp_path):
    error = pickle.loads(pickle.dumps(DamagedFileError(tmp_path / "file", "it is torn")))
    assert (error.path, str(error)) == (
        tmp_path / "file",
        f"{tmp_path}/file is damaged: it is torn",
    )


def test_a_storage_that_fails_for_a_moment_is_waited_for(stored, cell, launch, monkeypatch):
    """In the threads that read, too."""
    monkeypatch.setattr("trainables.storage.retry.SHORTEST_PAUSE", 0.001)
    failures, read = [OSError(errno.EIO, "no answer")] * 3, Path.read_bytes

    def fails_at_first(path):
        if failures and path.name == "model.safetensors":
            raise failures.pop()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fails_at_first)
    said = []
    with patience(said.append, seconds=60):
        assert launch([cell]) == (5, [])
    assert len(said) == 2
    assert "model.safetensors: no answer" in said[0]
