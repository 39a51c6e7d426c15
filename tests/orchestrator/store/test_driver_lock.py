"""Only one driver at a time, by a lock of the kernel or by a lease."""

import errno
import fcntl
import json
import multiprocessing
import os
import threading
from itertools import count

import pytest

from orchestrator.errors import UserError
from orchestrator.store.driver_lock import driver_of, driving
from trainables.storage.files import write_atomic
from trainables.storage.lease import HeldError, Lease

OTHER = {"holder": "process 2 on other", "token": "y", "number": 1, "time": 0.0}


def ignore(words):
    """Take what is said."""


def never(holder):
    raise AssertionError(f"lost to {holder}")


def hold(path, held, release):
    with driving(path, ignore, never):
        held.set()
        release.wait()


def test_a_second_driver_is_refused_until_the_first_is_gone(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    first = context.Process(target=hold, args=(tmp_path, held, release))
    first.start()
    assert held.wait(60)
    assert driver_of(tmp_path) == f"process {first.pid} on {os.uname().nodename}"
    with (
        pytest.raises(UserError, match=f"is being run by process {first.pid} on"),
        driving(tmp_path, ignore, never),
    ):
        pass
    first.kill()
    first.join()
    with driving(tmp_path, ignore, never):
        pass
    assert driver_of(tmp_path) is None


def test_unwritable_storage_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(UserError, match="cannot write the storage .*study: Not a directory"),
        driving(tmp_path / "file" / "study", ignore, never),
    ):
        pass


def test_a_file_system_without_locks_gets_a_lease(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr("orchestrator.store.driver_lock.Lease", lease)
    with driving(tmp_path, ignore, never):
        assert driver_of(tmp_path) == f"process {os.getpid()} on {os.uname().nodename}"
        with (
            pytest.raises(UserError, match=f"is being run by process {os.getpid()} on"),
            driving(tmp_path, ignore, never),
        ):
            pass
    assert driver_of(tmp_path) is None


@pytest.fixture
def path(store_folder):
    return store_folder / "driver.lease"


def lease(path, seconds=20.0):
    return Lease(path, seconds, beat_seconds=0.2)


def record(path):
    return json.loads(path.read_bytes())


def test_a_lease_is_refused_while_its_holder_beats(path):
    said = []
    with (
        lease(path).held(ignore, never),
        pytest.raises(HeldError, match=f"process {os.getpid()}"),
        lease(path).held(said.append, never),
    ):
        pass
    assert said == [
        f"process {os.getpid()} on {os.uname().nodename} was running this study; "
        "waiting 20 s to see whether it still is"
    ]
    assert not path.exists(), "a lease that is given back costs the next driver no wait"


def test_the_lease_of_a_dead_driver_is_taken_over(path):
    """Whatever its clock said: only what changes while it is watched counts."""
    dead = {"holder": "process 1 on gone", "token": "x", "number": 7, "time": 9e9}
    write_atomic(path, json.dumps(dead).encode())
    with lease(path, seconds=0.5).held(ignore, never):
        assert record(path)["holder"] != dead["holder"]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("torn", [b"", b'{"holder": "process'])
def test_a_record_that_is_being_written_is_no_dead_drivers(path, monkeypatch, first, torn):
    """Every second look finds half a record."""
    looks = count(first)

    def read(self):
        number = next(looks)
        return json.dumps(OTHER | {"number": number}).encode() if number % 2 else torn

    write_atomic(path, b"the other's")
    with monkeypatch.context() as patched:
        patched.setattr(type(path), "read_bytes", read)
        with pytest.raises(HeldError, match=OTHER["holder"]), lease(path).held(ignore, never):
            pass
    assert path.read_bytes() == b"the other's"


def test_what_is_no_record_is_taken_over_in_time(path):
    write_atomic(path, b"no record")
    with lease(path, seconds=0.5).held(ignore, never):
        assert record(path)["holder"] == f"process {os.getpid()} on {os.uname().nodename}"


def test_a_holder_that_lost_its_lease_is_told_by_whom(path):
    lost, holders = threading.Event(), []

    def note(holder):
        holders.append(holder)
        lost.set()

    with lease(path).held(ignore, note):
        write_atomic(path, json.dumps(OTHER).encode())
        assert lost.wait(60)
    assert holders == [OTHER["holder"]]
    assert record(path) == OTHER, "what is another's is left to it"


def test_of_two_that_begin_at_once_one_is_refused(path):
    """Neither sees the other's record before it writes its own, nor checks it before both have."""
    refused, inside = [], []
    both_look, both_written = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)

    class Rival(Lease):
        def _wait_for_death(self, say):
            super()._wait_for_death(say)
            both_look.wait()

        def _write(self):
            super()._write()
            if self._beat.number == 1:
                both_written.wait()

    def begin():
        try:
            with Rival(path, 20.0, beat_seconds=0.2).held(ignore, never):
                inside.append(len(inside))
                all_tried.wait()
        except HeldError:
            refused.append(1)
            all_tried.wait()

    all_tried = threading.Barrier(2, timeout=60)
    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 1)
