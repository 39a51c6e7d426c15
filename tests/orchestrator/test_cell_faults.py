"""Faults of one cell, or of one of its processes, which the others do not notice."""

import os
import signal

import pytest
from launching import STUDY, Launch, assert_tidy, listening, training_processes
from PIL import Image
from sklearn.datasets import load_digits

from orchestrator.store.stored_cell import CellState

pytestmark = pytest.mark.slow

TWO_WORKERS = STUDY | {
    "name": "two_workers",
    "grids": [STUDY["grids"][1] | {"method": ["topk"]}],
    "resources": {"tiny": {"cpu": 0.5, "workers": 2}},
}


def test_a_cell_that_raises_fails_alone_and_can_be_retried(tmp_path):
    images = tmp_path / "data" / "folder"
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
