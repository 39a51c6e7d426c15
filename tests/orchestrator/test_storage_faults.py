"""A storage that fails under a launch costs time at most; one that was taken over is left alone."""

import os
import signal

import pytest
from launching import Launch, assert_resumed, assert_tidy, layered

from orchestrator.store.store import Store
from trainables.storage.lease import Lease

pytestmark = pytest.mark.slow

TRAINER = "default_worker.py"
"""What processes that train run."""
PATIENCE_SECONDS = 10.0
"""Of drivers and cells under the fault layer, instead of five minutes."""


def test_a_failing_storage_is_waited_for_and_a_full_disk_ends_the_launch(
    tmp_path, gate, undisturbed
):
    """First nothing can be made durable for a while; then there is no room, and it stays so."""
    flag = tmp_path / "disturbed"
    faults = {"FAULT_STORAGE": str(flag), "FAULT_PATIENCE": str(PATIENCE_SECONDS)}
    gate.close(after=2)
    launch = Launch(tmp_path, env=layered(**faults, **gate.faults))
    launch.wait_for_step(2)
    flag.write_text("EIO")
    gate.close(after=8)
    disturbed = tmp_path / "disturbed.log"
    launch.wait_until(lambda: disturbed.exists() and TRAINER in disturbed.read_text())
    flag.unlink()
    launch.wait_until(lambda: "Input/output error" in launch.console)
    launch.wait_until(lambda: "the storage works again after" in launch.console)
    launch.wait_for_step(8)

    flag.write_text("ENOSPC")
    gate.open()
    launch.end(130)
    flag.unlink()
    console = launch.console
    assert "No space left on device: / has " in console
    assert "interrupted; everything is saved. Resume with: " in console.splitlines()[-1]
    assert "Traceback" not in console
    assert not launch.events("attempt failed")
    states = {path.parts[-3] for path in launch.store.path.glob("cells/*/last/*.pt")}
    assert states
    assert all(launch.store.cell(cell).load_last() for cell in states)
    assert not list(launch.store.path.glob("**/*.tmp"))
    assert_resumed(tmp_path, undisturbed, launch.results())


def test_a_driver_that_lost_its_lease_ends_and_says_by_whom_it_was_replaced(
    tmp_path, s3_folder, gate, undisturbed
):
    """It hangs; another takes over meanwhile, and works on when the first wakes up."""
    only = ("--storage", str(s3_folder), "--only", "*-deit-*")
    gate.close(after=2)
    launch = Launch(tmp_path, *only, env=gate.env)
    launch.store = Store(s3_folder / "faults")
    launch.wait_for_step(2)
    launch.process.send_signal(signal.SIGSTOP)
    lease = Lease(launch.store.path / "driver.lease", seconds=1.0, beat_seconds=0.2)
    with lease.held(lambda words: None, lambda holder: None):
        launch.process.send_signal(signal.SIGCONT)
        launch.wait_until(launch.is_stopping)
        gate.open()
        launch.end(130)
    *_, last_line = launch.console.splitlines()
    holder = f"process {os.getpid()} on {os.uname().nodename}"
    assert last_line == f"{holder} now runs {launch.store.path}; this run has stopped"
    assert_tidy(launch)
    (cell,) = (name for name in launch.store.cell_ids() if "-deit-" in name)
    assert launch.store.cell(cell).load_last()
    Launch(tmp_path, *only).end(0)
    assert launch.store.cell(cell).load_best() == undisturbed[cell]
