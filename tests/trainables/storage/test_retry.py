"""A storage that fails for a while costs time; one that fails for good, a clear line."""

import errno
import os
import pickle
import pydoc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainables.cell.cell_folder import CellFolder
from trainables.storage import files
from trainables.storage import retry as patience
from trainables.storage.files import append_line, remove_tree, stamp, write_atomic
from trainables.storage.paths import store_path
from trainables.storage.retry import StorageError, retrying

TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EROFS, errno.ENOSPC)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(patience, "SHORTEST_PAUSE", 0.001)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.05)


class Failing:
    """Fails a number of times, then answers."""

    def __init__(self, times, number=errno.EIO):
        self.left = times
        self.number = number

    def __call__(self, *arguments):
        if self.left:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number))
        return "answer"


@pytest.mark.parametrize("number", TRANSIENT, ids=errno.errorcode.get)
def test_what_fails_for_a_while_is_tried_again_and_told_once(tmp_path, number):
    told = []
    with patience.patience(told.append, seconds=60):
        assert retrying(Failing(5, number), tmp_path / "file") == "answer"
    waiting, works = told
    assert waiting.startswith(
        f"waiting for the storage, up to 60 s: {tmp_path}/file: {os.strerror(number)}"
    )
    assert works.startswith("the storage works again after ")


def test_without_patience_an_error_is_an_error_at_once(tmp_path):
    with pytest.raises(OSError, match="Input/output error"):
        retrying(Failing(1), tmp_path)
    with patience.patience(seconds=60):
        pass
    with pytest.raises(OSError, match="Input/output error"):
        retrying(Failing(1), tmp_path)


def test_a_file_that_is_missing_is_an_answer(tmp_path):
    with patience.patience(seconds=60), pytest.raises(FileNotFoundError):
        retrying((tmp_path / "file").read_bytes, tmp_path / "file")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_what_is_forbidden_is_not_waited_for(tmp_path, number):
    told = []
    with patience.patience(told.append, seconds=60), pytest.raises(PermissionError):
        retrying(Failing(1, number), tmp_path / "file")
    assert told == []


def test_patience_ends_with_what_to_do(tmp_path):
    with (
        patience.patience(seconds=0.05),
        pytest.raises(
            StorageError, match=r"failed for 0 s: .*: Input/output error; fix that"
        ) as found,
    ):
        retrying(Failing(10**6), tmp_path / "file")
    error = pickle.loads(pickle.dumps(found.value))
    assert (str(error), error.full) == (str(found.value), False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_what_is_free(tmp_path, number):
    with patience.patience(seconds=0), pytest.raises(StorageError) as found:
        retrying(Failing(10**6, number), tmp_path / "study" / "file")
    assert found.value.full
    assert f"{tmp_path}/study/file: {os.strerror(number)}: / has " in str(found.value)
    assert " free; free some space, then run the study again" in str(found.value)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from trainables.storage import retry as patience
from trainables.cell.cell_folder import CellFolder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = CellFolder(Path(sys.argv[1]))
folder.save_last(1, bytes(1000))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    with patience.patience(seconds=0.1):
        folder.save_last(2, bytes(10_000))
except patience.StorageError as error:
    print(error)
"""


def test_a_write_that_finds_no_room_leaves_the_last_good_state_and_nothing_beside(tmp_path):
    """In a process that may not write larger files: a real error of a real file system."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert "the storage has failed for 0 s: " in ended.stdout
    assert "state-00000002.pt: File too large" in ended.stdout
    assert CellFolder(tmp_path).load_last() == bytes(1000)
    assert not list(tmp_path.glob("**/*.tmp"))


def test_each_write_is_patient(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file"
    with patience.patience(seconds=60):
        for name in ("_write_aside", "_append"):
            real, failing = getattr(files, name), Failing(2)
            monkeypatch.setattr(files, name, lambda *a, f=failing, r=real: (f(), r(*a)))
        write_atomic(path, b"x")
        append_line(path, "y")
        assert path.read_bytes() == b"xy\n"
        real, failing = files.shutil.rmtree, Failing(2)
        monkeypatch.setattr(files.shutil, "rmtree", lambda path: (failing(), real(path)))
        remove_tree(tmp_path / "a")
        assert not path.exists()


LOOKS = {
    "exists": ("os.stat", lambda folder: (folder / "file").exists(), True),
    "is_file": ("os.stat", lambda folder: (folder / "file").is_file(), True),
    "is_dir": ("os.stat", lambda folder: folder.is_dir(), True),
    "glob": ("os.listdir", lambda folder: [path.name for path in folder.glob("*")], ["file"]),
    "read_bytes": ("pathlib.Path.read_bytes", lambda folder: (folder / "file").read_bytes(), b"x"),
    "read_text": ("pathlib.Path.read_bytes", lambda folder: (folder / "file").read_text(), "x"),
    "unlink": ("os.unlink", lambda folder: (folder / "file").unlink(), None),
    "stamp": ("pathlib.Path.stat", lambda folder: stamp(folder / "file")[0], 1),
}


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT], ids=errno.errorcode.get
)
@pytest.mark.parametrize("look", LOOKS)
def test_each_look_is_patient_and_takes_no_failure_for_an_answer(
    tmp_path, monkeypatch, look, number
):
    system, ask, answer = LOOKS[look]
    folder = store_path(str(tmp_path))
    (folder / "file").write_text("x")
    real, failing = pydoc.locate(system), Failing(2, number)

    def fails_at_first(path, *arguments, **options):
        if Path(os.fspath(path)).is_relative_to(folder):
            failing()
        return real(path, *arguments, **options)

    monkeypatch.setattr(system, fails_at_first)
    with pytest.raises(OSError, match=os.strerror(number)):
        ask(folder)
    assert failing.left == 1
    with patience.patience(seconds=60):
        assert ask(folder) == answer
    assert failing.left == 0


def test_a_server_that_is_away_for_a_while_costs_time_only(s3_folder, s3_server):
    """Its memory goes with it: what was there before is not asked for."""
    told, away = [], threading.Event()

    def tell(words):
        told.append(words)
        away.set()

    def restart():
        away.wait(60)
        s3_server.start()

    s3_server.stop()
    restarting = threading.Thread(target=restart)
    restarting.start()
    with patience.patience(tell, seconds=120):
        write_atomic(s3_folder / "file", b"x")
        assert (s3_folder / "file").read_bytes() == b"x"
    restarting.join()
    assert len(told) == 2
    assert "Could not connect to server" in told[0]
