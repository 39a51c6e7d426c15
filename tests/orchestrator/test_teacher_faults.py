"""Whatever happens to a teacher, its students end bit for bit where undisturbed ones end."""

import os

import pytest
from launching import STUDY, Launch, assert_resumed

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


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Launch:
    """Return the launch of teacher and students that nobody disturbed."""
    launch = Launch(tmp_path_factory.mktemp("taught"), study=DISTILLING)
    launch.end(0)
    return launch


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
