"""A whole study in an object store: killed, resumed, read, and no secret anywhere."""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def start(*arguments, folder):
    """Start a command of ours; what it and Ray leave goes to `folder`."""
    with (folder / "console.txt").open("a") as console:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            stdout=console,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
            start_new_session=True,
        )


def wait_until(holds, process, folder):
    deadline = time.monotonic() + 400
    while not holds():
        assert process.poll() is None, (folder / "console.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.5)


def weights(store):
    return {cell: store.cell(cell).load_best() for cell in store.cell_ids()}


@pytest.fixture
def folder():
    """Return a folder with a short path: Ray puts sockets below it."""
    with TemporaryDirectory(prefix="s3-") as folder:
        yield Path(folder)


def test_a_killed_study_ends_as_in_a_folder_and_keeps_its_secrets(finished, s3_folder, folder):
    run = ("run", "--study", "smoke", "--storage", str(s3_folder))
    store = Store(s3_folder / "smoke")
    first = start(*run, folder=folder)
    trained = "cells/*/result.json"
    wait_until(lambda: list(store.path.glob(trained)), first, folder)
    assert store.driver() == f"process {first.pid} on {os.uname().nodename}"
    first.kill()
    first.wait()
    kept = {path: path.size_and_time() for path in store.path.glob(trained)}

    assert start(*run, folder=folder).wait(timeout=500) == 0, (folder / "console.txt").read_text()
    console = (folder / "console.txt").read_text()
    assert (
        f"process {first.pid} on {os.uname().nodename} was running this study; waiting" in console
    )
    assert {store.cell(cell).state() for cell in store.cell_ids()} == {CellState.DONE}
    assert {path: path.size_and_time() for path in kept} == kept
    assert weights(store) == weights(finished.store)
    assert (store.tables / "pruning.parquet").read_bytes() == (
        finished.store.tables / "pruning.parquet"
    ).read_bytes()

    for command in ("status", "report"):
        assert start(command, str(s3_folder), folder=folder).wait(timeout=200) == 0
    console = (folder / "console.txt").read_text()
    assert "smoke: 5 cells: 5 done" in console
    assert f"report: {store.report}" in console
    assert_no_secret(s3_folder, folder)


def assert_no_secret(storage, folder):
    """Look into everything in the store, on the console, and in all that Ray left in logs."""
    secrets = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    objects = [path for path in everything(storage) if path.is_file()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(objects) > 50
    for path in (*objects, *files):
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path


def everything(storage):
    return [path for depth in range(1, 7) for path in storage.glob("/".join("*" * depth))]
