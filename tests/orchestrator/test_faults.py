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
    listening,
    training_processes,
)

from orchestrator.interrupts import ONE_REQUEST_SECONDS
from orchestrator.store.stored_cell import CellState

pytestmark = pytest.mark.slow

DISTILLING = {
    "name": "distilling",
    "defaults": STUDY["defaults"],
    "grids": [
        {
            "dataset": ["digits"],
            "capacity": ["tiny"],
            "method": ["dynamicvit"],
            "keep_rate": [0.7, 0.9],
        }
    ],
    "recipes": {"everything": STUDY["recipes"]["everything"] | {"distillation": "dynamicvit"}},
    "measure": STUDY["measure"],
}
"""Two students, and a teacher that no grid has, of 2 epochs each."""

STEPS = 30
"""Of each cell of `launching.STUDY`, in two epochs."""

SHARING = STUDY | {
    "recipes": {"everything": STUDY["recipes"]["everything"] | {"shared_input": True}}
}

TWO_WORKERS = STUDY | {
    "name": "two_workers",
    "grids": [STUDY["grids"][1] | {"method": ["topk"]}],
    "resources": {"tiny": {"cpu": 0.5, "workers": 2}},
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Launch:
    """Return the launch of teacher and students that nobody disturbed."""
    launch = Launch(tmp_path_factory.mktemp("taught"), study=DISTILLING)
    launch.end(0)
    return launch


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


def test_a_cell_that_raises_fails_alone_and_can_be_retried(tmp_path):
    images = tmp_path / "data" / "folder"
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for split, start in (("train", 0), ("val", 100)):
        for index in range(start, start + 96):
            name = images / split / str(digits.target[index]) / f"{index}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[index] * 15).astype("uint8")).save(name)
    broken = next(iter(sorted((images / "train" / "0").iterdir())))
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    grid = {"capacity": ["tiny"], "method": ["topk"], "keep_rate": [0.5]}
    study = STUDY | {
        "grids": [grid | {"dataset": ["folder"]}, grid | {"dataset": ["digits"]}],
    }

    launch = Launch(tmp_path, "--data", str(tmp_path / "data"), study=study)
    launch.end(1)
    failed, done = sorted(launch.store.cell_ids(), key=lambda cell: cell.startswith("digits"))
    assert launch.store.cell(done).state() is CellState.DONE
    stored = launch.store.cell(failed)
    assert stored.state() is CellState.FAILED
    assert "UnreadableImage" in stored.error()
    assert str(broken) in stored.error()
    attempts = [entry for entry in stored.log() if "attempt" in entry]
    assert [entry["event"] for entry in attempts] == ["attempt failed"] * 2 + ["failed"]
    assert all(str(broken) in entry["error"] for entry in attempts)
    console = launch.console
    assert f"failed: {failed}: " in console
    assert str(stored.error_file) in console
    assert_tidy(launch)

    broken.write_bytes(whole)
    again = Launch(tmp_path, "--data", str(tmp_path / "data"), "--retry-failed", study=study)
    again.end(0)
    assert again.store.cell(failed).state() is CellState.DONE


def teacher_and_students(launch: Launch) -> tuple[str, list[str]]:
    """Return the cells' ids."""
    *students, teacher = launch.store.cell_ids()
    assert teacher.startswith("digits-deit-")
    return teacher, students


def test_a_killed_driver_costs_nothing_while_students_wait_or_learn(tmp_path, taught, gate):
    """The first kill is in the midst of the teacher, the second in that of a student.

    A second driver is refused until the first is dead: both have a Ray, and share the storage.
    """
    for method in ("deit", "dynamicvit"):
        gate.close(after=1, cells=f"*-{method}-*")
        launch = Launch(tmp_path, study=DISTILLING, env=gate.env)
        launch.wait_for_step(1, f"*-{method}-*")
        if method == "deit":
            assert_alone(launch, Launch(tmp_path, study=DISTILLING))
        launch.process.kill()
        launch.end()
        teacher, students = teacher_and_students(launch)
        learning = any(launch.store.cell(cell).log() for cell in students)
        assert learning is launch.store.cell(teacher).is_trained() is (method == "dynamicvit")
    assert_resumed(tmp_path, taught.weights(), launch.results(), study=DISTILLING)


def assert_alone(first: Launch, second: Launch) -> None:
    """The second launch is refused in one line that names the first, which goes on."""
    second.end(2)
    refusal = second.console.strip()
    assert f"is being run by process {first.process.pid} on {os.uname().nodename}" in refusal
    assert len(refusal.splitlines()) == 1
    assert first.process.poll() is None


def test_a_damaged_teacher_is_trained_again_for_the_next_student(taught):
    """Its weights come out the same, and the student that was trained stays as it was."""
    before, results = taught.weights(), taught.results()
    teacher, (trained, lost) = teacher_and_students(taught)
    weights = taught.store.cell(teacher).path / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    taught.store.cell(lost).discard_training()
    again = Launch(taught.store.path.parent, "--only", lost, study=DISTILLING)
    again.end(0)
    console = again.console
    assert f"{weights} is damaged" in console
    assert f"also selected because selected cells learn from them: {teacher}" in console
    assert again.weights() == before
    assert again.results()[trained] == results[trained]
    assert again.results()[lost] > again.results()[teacher] > results[teacher]


def test_a_killed_worker_of_several_costs_nothing(tmp_path, gate):
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Launch(tmp_path / "undisturbed", study=TWO_WORKERS)
    undisturbed.end(0)
    gate.close(after=1)
    launch = Launch(tmp_path, study=TWO_WORKERS, env=gate.env)
    launch.wait_for_step(1)
    workers = training_processes(launch.process.pid, "Rank")
    assert len(workers) == 2
    assert [where for where in listening(launch.process.pid) if not where.is_loopback] == []
    os.kill(workers[-1], signal.SIGKILL)
    gate.open()
    launch.end(0)
    assert launch.weights() == undisturbed.weights()
    (failed,) = (line for line in launch.log() if '"attempt failed"' in line)
    assert "(counted from 0) of the cell died" in failed
    assert_tidy(launch)
