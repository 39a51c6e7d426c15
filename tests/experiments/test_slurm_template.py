"""The batch script for SLURM, on a real Ray of two nodes; what SLURM does is acted by stand-ins."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from launching import BRIEFLY, Gate

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "clusters" / "slurm.sbatch"
STAND_INS = {
    "srun": 'echo "$@" >> "$here/srun.log"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "squeue": "echo RUNNING",
    "scontrol": 'echo "$@" >> "$here/scontrol.log"',
}
STUDY = {
    "name": "preempted",
    "defaults": {"reduction_loc": [3, 6, 9], "recipe": "short"},
    "grids": [{"dataset": ["digits"], "capacity": ["tiny"], "method": ["deit"]}],
    "recipes": {
        "short": {
            "host": "digits_{capacity}_patch4_32",
            "image_size": 32,
            "epochs": 1,
            "warmup_epochs": 0,
            "batch_size": 48,
            "checkpoint_minutes": 1e-6,  # A state and a report after every step.
        }
    },
    "measure": BRIEFLY,
}


class Job:
    """A job's batch script, started as SLURM would on the first of two nodes."""

    def __init__(self, folder: Path, closed_after: int | None = None) -> None:
        self.folder = folder
        self.store = Store(folder / "results" / STUDY["name"])
        self.gate = Gate(folder / "gate")
        if closed_after is not None:
            self.gate.close(closed_after)
        self.number = unused_job()
        self.port = 20000 + 2 * self.number
        for name, script in STAND_INS.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\nhere={folder}\n{script}\n")
            (folder / name).chmod(0o755)
        study = folder / "study.yaml"
        study.write_text(yaml.safe_dump(STUDY))
        self.output = folder / "job.log"
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                ["bash", SCRIPT, "--study", study, "--storage", folder / "results"],
                cwd=ROOT,  # SLURM runs a copy of the script, in the folder of `sbatch`.
                env=os.environ | self.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def environment(self) -> dict[str, str]:
        """Return what SLURM sets; the user's token of Ray is to be made anew."""
        return self.gate.env | {
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_ON_NODE": "1",
            "SLURMD_NODENAME": "first",
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "HOME": str(self.folder),
        }

    def wait_for_steps(self, count: int) -> None:
        """Return when the cell has reported so many steps."""
        self.wait_until(
            lambda: sum(log.read_text().count('"loss"') for log in self.logs()) >= count
        )

    def wait_until_stopping(self) -> None:
        """Return when the driver has told its cells to save and end."""
        self.wait_until(lambda: list(self.store.path.glob("stop-*")))

    def wait_until(self, holds: Callable[[], object]) -> None:
        """Return when something holds while the job goes on."""
        deadline = time.monotonic() + 400
        while not holds():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def logs(self) -> list[Path]:
        """Return the cells' logs."""
        return list(self.store.path.glob("cells/*/log.jsonl"))

    def end(self) -> int:
        """Wait for the script, then for its Ray, and return the script's exit status."""
        status = self.process.wait(timeout=400)
        deadline = time.monotonic() + 400
        while self.ray_processes():
            assert time.monotonic() < deadline, self.ray_processes()
            time.sleep(0.1)
        shutil.rmtree(f"/tmp/ray-{self.number}", ignore_errors=True)
        return status

    def worker(self) -> int:
        """Return the process that stands for the step with the workers."""
        address = f"--address={socket.gethostname()}:{self.port}"
        (process,) = (pid for pid, line in command_lines().items() if line.endswith(address))
        return process

    def ray_processes(self) -> list[str]:
        """Return what still runs of this job's Ray."""
        return [line for line in command_lines().values() if f"/tmp/ray-{self.number}/" in line]


def command_lines() -> dict[int, str]:
    """Return the command line of every process."""
    lines = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines


def unused_job() -> int:
    """Return a job's number whose ports, which the script derives from it, are free."""
    for number in range(1, 5000):
        try:
            for port in (20000 + 2 * number, 20001 + 2 * number):
                socket.create_server(("", port)).close()
        except OSError:
            continue
        if not Path(f"/tmp/ray-{number}").exists():
            return number
    raise AssertionError("all ports are in use")


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a job; what is left of one at the end is stopped."""
    jobs = []

    def started(closed_after: int | None = None) -> Job:
        jobs.append(Job(tmp_path, closed_after))
        return jobs[-1]

    yield started
    for job in jobs:
        if job.process.poll() is None:
            job.process.terminate()
            job.end()


def test_a_preempted_job_saves_goes_back_to_the_queue_and_resumes(tmp_path, start):
    """SLURM's signal reaches the step with the workers, and not the script."""
    job = start(closed_after=1)
    job.wait_for_steps(1)
    os.kill(job.worker(), signal.SIGTERM)
    job.wait_until_stopping()
    job.gate.open()
    assert job.end() == 130, job.output.read_text()
    assert "2 of 2 nodes have joined Ray\n" in job.output.read_text()
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job.number}\n"
    (step,) = (tmp_path / "srun.log").read_text().splitlines()
    assert step.startswith("--nodes=1 --ntasks=1 --exclude=first --wait=0 --cpus-per-task=1 ")
    (cell,) = (job.store.cell(cell_id) for cell_id in job.store.cell_ids())
    assert cell.state() is CellState.INTERRUPTED

    again = start()
    assert again.end() == 0, again.output.read_text()
    assert cell.state() is CellState.DONE
    assert len((tmp_path / "scontrol.log").read_text().splitlines()) == 1
