"""Whatever kills a launch, the next one ends bit for bit where an undisturbed one ends."""

import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from launching import (
    STUDY,
    Launch,
    assert_gone,
    assert_resumed,
    assert_tidy,
)

from orchestrator.interrupts import ONE_REQUEST_SECONDS

pytestmark = pytest.mark.slow

STEPS = 30
"""Of each cell of `launching.STUDY`, in two epochs."""

SHARING = STUDY | {
    "recipes": {"everything": STUDY["recipes"]["everything"] | {"shared_input": True}}
}


def test_kills_at_random_steps_cost_nothing(tmp_path, undisturbed, gate):
    """A trainer is killed, then the driver, twice over; whatever loaded images for them ends."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 2**32))
    sys.stdout.write(f"repeat the same kills with FAULT_SEED={seed}\n")  # Shown if it fails.
    draw = random.Random(seed)
    for epoch in range(2):
        step = epoch * STEPS // 2 + draw.randint(1, 6)
        gate.close(after=step)
        launch = Launch(tmp_path, env=gate.env)
        launch.wait_for_step(step)
        loading = launch.wait_for_loaders()
        trainer = draw.choice(launch.trainers())
        os.kill(trainer, signal.SIGKILL)
        step += draw.randint(1, 6)
        gate.close(after=step)
        launch.wait_for_step(step)
        loading += launch.wait_for_loaders()
        launch.process.kill()
        launch.end()
        assert_gone([trainer, *loading])
    assert_resumed(tmp_path, undisturbed, launch.results())


def test_a_killed_worker_is_replaced_within_the_launch(tmp_path, undisturbed, gate):
    """The cells share their batches, here and in no other launch: that changes no bit."""
    gate.close(after=3)
    launch = Launch(tmp_path, study=SHARING, env=gate.env)
    launch.wait_until(lambda: len(launch.cells_at(3)) == len(launch.trainers()) > 0)
    killed = launch.trainers()
    for process in killed:
        os.kill(process, signal.SIGKILL)
    assert killed
    gate.open()
    launch.end(0)
    assert launch.weights() == undisturbed
    assert sum('"attempt failed"' in line for line in launch.log()) == len(killed)
    assert_tidy(launch)


def test_without_its_raylet_a_launch_ends_and_says_how_to_go_on(tmp_path, undisturbed, gate):
    gate.close(after=3)
    launch = Launch(tmp_path, env=gate.env)
    launch.wait_for_step(3)
    trainers = launch.trainers()
    (raylet,) = launch.named("raylet")
    os.kill(raylet, signal.SIGKILL)
    launch.end(1)
    *_, last_line = launch.console.splitlines()
    lost = "lost the local raylet of the Ray on this machine; everything is saved. Resume with: "
    assert last_line.startswith(lost)
    assert_tidy(launch)
    assert_gone(trainers)
    assert_resumed(tmp_path, undisturbed, launch.results())


def test_without_ray_s_sockets_a_launch_saves_and_says_why(tmp_path, undisturbed, gate):
    """As programs do that clean temporary folders."""
    gate.close(after=3)
    launch = Launch(tmp_path, env=gate.env)
    launch.wait_for_step(3)
    (raylet,) = launch.named("raylet")
    command = Path(f"/proc/{raylet}/cmdline").read_bytes().decode()
    sockets = Path(re.search(r"--raylet_socket_name=([^\0]+)", command)[1]).parent
    for socket in sockets.iterdir():
        socket.unlink()
    launch.wait_until(launch.is_stopping)
    gate.open()
    assert_saved(launch)
    assert f"Ray's sockets in {sockets} were removed" in launch.console
    assert_tidy(launch)
    assert_resumed(tmp_path, undisturbed, launch.results())


def assert_saved(launch: Launch) -> None:
    """The launch has ended as after a signal: every cell that ran has saved its last step.

    One that was trained by then has its result, and may have states of earlier steps.
    """
    launch.end(130)
    last_line = launch.console.splitlines()[-1]
    assert last_line.startswith("interrupted; everything is saved. Resume with: ")
    interpreter = last_line.split("Resume with: ")[1].split()[0]
    assert Path(interpreter).samefile(sys.executable)
    assert "full_grid.py --study" in last_line
    states = sorted(launch.store.path.glob("cells/*/last/*.pt"))
    saved = {path.parts[-3]: path.stem for path in states}
    saved = {cell: state for cell, state in saved.items() if not launch.store.cell(cell).result()}
    reported = {cell: launch.store.cell(cell).last_report()["step"] for cell in saved}
    assert saved == {cell: f"state-{step:08d}" for cell, step in reported.items()} != {}


def test_signals_stop_in_mid_epoch_and_say_how_to_resume(tmp_path, undisturbed, gate):
    """SIGTERM saves and stops, SIGHUP does, and a later SIGINT stops without that."""

    def launched(step):
        gate.close(after=step)
        launch = Launch(tmp_path, env=gate.env)
        launch.wait_for_step(step)
        return launch, launch.wait_for_loaders()

    launch, loading = launched(3)
    # As `timeout` does: to the process, then to its group.
    launch.process.terminate()
    os.killpg(launch.process.pid, signal.SIGTERM)
    launch.wait_until(launch.is_stopping)
    gate.open()
    assert_saved(launch)
    assert_gone(loading)
    launch, loading = launched(9)
    os.killpg(launch.process.pid, signal.SIGHUP)  # As a terminal that is closed does.
    launch.wait_until(launch.is_stopping)
    gate.open()
    assert_saved(launch)
    assert_gone(loading)
    launch, loading = launched(18)
    os.killpg(launch.process.pid, signal.SIGINT)
    launch.wait_until(launch.is_stopping)
    time.sleep(ONE_REQUEST_SECONDS)
    os.killpg(launch.process.pid, signal.SIGINT)
    launch.end(130)
    assert re.match("interrupted; (not )?everything is saved", launch.console.splitlines()[-1])
    assert_gone(loading)
    assert_tidy(launch)
    assert_resumed(tmp_path, undisturbed, launch.results())
