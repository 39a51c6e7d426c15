"""Whatever kills a launch, the next one ends bit for bit where an undisturbed one ends."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrator.store import CellState, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FULL_GRID = Path(__file__).parents[2] / "experiments" / "full_grid.py"
STUDY = {
    "name": "faults",
    "defaults": {"reduction_loc": [3, 6, 9], "recipe": "everything"},
    "grids": [
        {"dataset": ["digits"], "capacity": ["tiny"], "method": ["deit"]},
        {
            "dataset": ["digits"],
            "capacity": ["tiny"],
            "method": ["dynamicvit", "dpcknn"],  # Both draw in training.
            "keep_rate": [0.5],
        },
    ],
    # All that draws random numbers or averages is on: resuming has to repeat it exactly.
    "recipes": {
        "everything": {
            "host": "digits_{capacity}_patch4_32",
            "image_size": 32,
            "epochs": 2,
            "warmup_epochs": 1,
            "batch_size": 48,
            "accumulation": 2,
            "lr": 0.001,
            "lr_reference_batch": 96,
            "ema_decay": 0.9,
            "loader_workers": 2,
            "checkpoint_minutes": 1e-6,  # A state and a report after every step.
        }
    },
}


DISTILLING = {
    "name": "distilling",
    "defaults": STUDY["defaults"],
    "grids": [
        {
            "dataset": ["digits"],
            "capacity": ["tiny"],
            "method": ["dynamicvit"],
            "keep_rate": [0.5, 0.7],
        }
    ],
    "recipes": {"everything": STUDY["recipes"]["everything"] | {"distillation": "dynamicvit"}},
}
"""Two students, and a teacher that no grid has, of 2 epochs each."""

TWO_WORKERS = STUDY | {
    "name": "two_workers",
    "grids": [STUDY["grids"][1] | {"method": ["topk"]}],
    "resources": {"tiny": {"cpu": 0.5, "workers": 2}},
}


class Launch:
    """A launch in a process group of its own, as a terminal would start it."""

    def __init__(self, storage: Path, *arguments: str, study: dict = STUDY) -> None:
        file = storage / "study.yaml"
        file.write_text(yaml.safe_dump(study))
        self.store = Store(storage / study["name"])
        self.output = storage / "console.txt"
        with self.output.open("w") as console:
            self.process = subprocess.Popen(
                [sys.executable, FULL_GRID, "--study", file, "--storage", storage, *arguments],
                stdout=console,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def end(self) -> int:
        """Wait for the launch and return its exit status."""
        return self.process.wait(timeout=500)

    def wait_for_reports(self, count: int, cells: str = "*") -> None:
        """Return when there are `count` reports with a loss, of all cells of a glob together."""
        self.wait_until(lambda: self.reports(cells) >= count)

    def wait_for_loaders(self) -> list[int]:
        """Return the processes that load images for cells, once there are some."""
        self.wait_until(lambda: loaders(self.trainers()))
        return loaders(self.trainers())

    def wait_until(self, holds: Callable[[], object]) -> None:
        """Return when something holds while the launch goes on."""
        deadline = time.monotonic() + 400
        while not holds():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def reports(self, cells: str = "*") -> int:
        """Return how many reports with a loss there are, one a step."""
        return sum('"loss"' in line for line in self.log(cells))

    def trainers(self) -> list[int]:
        """Return the processes that train cells."""
        return training_processes(self.process.pid)

    def log(self, cells: str = "*") -> list[str]:
        """Return the lines of the logs of all cells of a glob."""
        logs = self.store.path.glob(f"cells/{cells}/log.jsonl")
        return [line for log in logs for line in log.read_text().splitlines()]

    def weights(self) -> dict[str, bytes]:
        """Return the bytes of every cell's best weights."""
        paths = self.store.path.glob("cells/*/best/model.safetensors")
        return {path.parts[-3]: path.read_bytes() for path in paths}

    def results(self) -> dict[str, int]:
        """Return when each finished cell was finished, in nanoseconds."""
        paths = self.store.path.glob("cells/*/result.json")
        return {path.parent.name: path.stat().st_mtime_ns for path in paths}


def training_processes(driver: int, actor: str = "FinetuneTrainable") -> list[int]:
    """Return the processes below a driver that train cells; Ray names them after their class."""
    parents, titles = processes()

    def is_below(process: int) -> bool:
        return process == driver or (process in parents and is_below(parents[process]))

    # Processes that load images are forked from these, and keep their title.
    trainables = {p for p, title in titles.items() if title.startswith(f"ray::{actor}".encode())}
    return [p for p in trainables if is_below(p) and parents[p] not in trainables]


def loaders(trainers: list[int]) -> list[int]:
    """Return the processes that load images for these."""
    parents, _ = processes()
    return [process for process, parent in parents.items() if parent in trainers]


def processes() -> tuple[dict[int, int], dict[int, bytes]]:
    """Return the parent and the command line of every process."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents, titles


def assert_gone(ended: list[int]) -> None:
    """Processes end by themselves soon after the one that they worked for; none is left."""
    deadline = time.monotonic() + 60
    while left := [process for process in ended if Path(f"/proc/{process}").exists()]:
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """Return the weights that nobody disturbed."""
    launch = Launch(tmp_path_factory.mktemp("undisturbed"))
    assert launch.end() == 0, launch.output.read_text()
    return launch.weights()


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Launch:
    """Return the launch of teacher and students that nobody disturbed."""
    launch = Launch(tmp_path_factory.mktemp("taught"), study=DISTILLING)
    assert launch.end() == 0, launch.output.read_text()
    return launch


def assert_resumed(
    storage: Path, undisturbed: dict[str, bytes], finished: dict[str, int], study: dict = STUDY
) -> None:
    """Launch again: all must end as undisturbed, and what was finished stay untouched."""
    again = Launch(storage, study=study)
    assert again.end() == 0, again.output.read_text()
    assert again.weights() == undisturbed
    assert {cell: again.results()[cell] for cell in finished} == finished
    states = {again.store.cell(cell).state() for cell in again.store.cell_ids()}
    assert states == {CellState.DONE}


def assert_tidy(launch: Launch) -> None:
    """A launch in which something failed still tells it in a few lines, and without traces."""
    console = launch.output.read_text()
    assert "Traceback" not in console
    assert len(console.splitlines()) < 20, console


def test_kills_at_random_steps_cost_nothing(tmp_path, undisturbed):
    """A trainer is killed, then the driver, twice over; whatever loaded images for them ends."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 2**32))
    sys.stdout.write(f"repeat the same kills with FAULT_SEED={seed}\n")  # Shown if it fails.
    draw = random.Random(seed)
    for _ in range(2):
        launch = Launch(tmp_path)
        before = launch.reports()
        launch.wait_for_reports(before + draw.randint(1, 15))
        loading = launch.wait_for_loaders()
        trainer = draw.choice(launch.trainers())
        os.kill(trainer, signal.SIGKILL)
        launch.wait_for_reports(before + draw.randint(16, 30))
        loading += launch.wait_for_loaders()
        launch.process.kill()
        launch.end()
        assert_gone([trainer, *loading])
    assert_resumed(tmp_path, undisturbed, launch.results())


def test_a_killed_worker_is_replaced_within_the_launch(tmp_path, undisturbed):
    launch = Launch(tmp_path)
    launch.wait_for_reports(5)
    killed = launch.trainers()
    for process in killed:
        os.kill(process, signal.SIGKILL)
    assert killed
    assert launch.end() == 0, launch.output.read_text()
    assert launch.weights() == undisturbed
    assert sum('"attempt failed"' in line for line in launch.log()) == len(killed)
    assert_tidy(launch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_in_mid_epoch_and_says_how_to_resume(tmp_path, undisturbed, number):
    launch = Launch(tmp_path)
    launch.wait_for_reports(20)
    loading = launch.wait_for_loaders()
    if number == signal.SIGINT:
        os.killpg(launch.process.pid, number)  # As a terminal does: to the whole group.
    else:
        launch.process.terminate()
    assert launch.end() == 130, launch.output.read_text()
    last_line = launch.output.read_text().splitlines()[-1]
    assert last_line.startswith("interrupted; everything is saved. Resume with: ")
    interpreter = last_line.split("Resume with: ")[1].split()[0]
    assert Path(interpreter).samefile(sys.executable)
    assert "full_grid.py --study" in last_line
    assert_gone(loading)
    saved = {
        path.parts[-3]: path.stem for path in sorted(launch.store.path.glob("cells/*/last/*.pt"))
    }
    reported = {cell: launch.store.cell(cell).last_report()["step"] for cell in saved}
    assert saved == {cell: f"state-{step:08d}" for cell, step in reported.items()} != {}
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
    assert launch.end() == 1
    failed, done = sorted(launch.store.cell_ids(), key=lambda cell: cell.startswith("digits"))
    assert launch.store.cell(done).state() is CellState.DONE
    stored = launch.store.cell(failed)
    assert stored.state() is CellState.FAILED
    assert "UnreadableImage" in stored.error()
    assert str(broken) in stored.error()
    attempts = [entry for entry in stored.log() if "attempt" in entry]
    assert [entry["event"] for entry in attempts] == ["attempt failed"] * 2 + ["failed"]
    assert all(str(broken) in entry["error"] for entry in attempts)
    console = launch.output.read_text()
    assert f"failed: {failed}: " in console
    assert str(stored.error_file) in console
    assert_tidy(launch)

    broken.write_bytes(whole)
    again = Launch(tmp_path, "--data", str(tmp_path / "data"), "--retry-failed", study=study)
    assert again.end() == 0, again.output.read_text()
    assert again.store.cell(failed).state() is CellState.DONE


def teacher_and_students(launch: Launch) -> tuple[str, list[str]]:
    """Return the cells' ids."""
    *students, teacher = launch.store.cell_ids()
    assert teacher.startswith("digits-deit-")
    return teacher, students


@pytest.mark.parametrize("method", ["deit", "dynamicvit"])
def test_a_killed_driver_costs_nothing_while_students_wait_or_learn(tmp_path, taught, method):
    """The first kill is in the midst of the teacher, the second in that of a student."""
    launch = Launch(tmp_path, study=DISTILLING)
    launch.wait_for_reports(1, f"*-{method}-*")
    launch.process.kill()
    launch.end()
    teacher, students = teacher_and_students(launch)
    learning = any(launch.store.cell(cell).log() for cell in students)
    assert learning is launch.store.cell(teacher).is_trained() is (method == "dynamicvit")
    assert_resumed(tmp_path, taught.weights(), launch.results(), DISTILLING)


def test_a_damaged_teacher_is_trained_again_for_the_next_student(taught):
    """Its weights come out the same, and the student that was trained stays as it was."""
    before, results = taught.weights(), taught.results()
    teacher, (trained, lost) = teacher_and_students(taught)
    weights = taught.store.cell(teacher).path / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    taught.store.cell(lost).discard_training()
    again = Launch(taught.store.path.parent, "--only", lost, study=DISTILLING)
    assert again.end() == 0, again.output.read_text()
    console = again.output.read_text()
    assert f"{weights} is damaged" in console
    assert f"selected, too, for they have to teach others first: {teacher}" in console
    assert again.weights() == before
    assert again.results()[trained] == results[trained]
    assert again.results()[lost] > again.results()[teacher] > results[teacher]


def test_a_killed_worker_of_several_costs_nothing(tmp_path):
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Launch(tmp_path / "undisturbed", study=TWO_WORKERS)
    assert undisturbed.end() == 0, undisturbed.output.read_text()
    launch = Launch(tmp_path, study=TWO_WORKERS)
    launch.wait_for_reports(1)
    workers = training_processes(launch.process.pid, "Rank")
    assert len(workers) == 2
    os.kill(workers[-1], signal.SIGKILL)
    assert launch.end() == 0, launch.output.read_text()
    assert launch.weights() == undisturbed.weights()
    (failed,) = (line for line in launch.log() if '"attempt failed"' in line)
    assert "(counted from 0) of the cell died" in failed
    assert_tidy(launch)
