"""The batch script for SLURM, on a real Ray of two nodes; what SLURM does is acted by stand-ins."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.store import CellState, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "clusters" / "slurm.sbatch"
STAND_INS = {
    "srun": 'echo "$@" >> srun.log; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "squeue": "cat state",
    "scontrol": 'echo "$@" >> scontrol.log',
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
}


class Job:
    """A job's batch script, started as SLURM would on the first of two nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "results" / STUDY["name"])
        self.number = unused_job()
        self.port = 20000 + 2 * self.number
        for name, script in STAND_INS.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\ncd {folder}\n{script}\n")
            (folder / name).chmod(0o755)
        (folder / "state").write_text("RUNNING\n")
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
        return {
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_ON_NODE": "1",
            "SLURMD_NODENAME": "first",
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "HOME": str(self.folder),
        }

    def wait_for_steps(self, count: int) -> None:
        """Return when the cell has reported so many steps."""
        deadline = time.monotonic() + 200
        while sum(log.read_text().count('"loss"') for log in self.logs()) < count:
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def logs(self) -> list[Path]:
        """Return the cells' logs."""
        return list(self.store.path.glob("cells/*/log.jsonl"))

    def end(self) -> int:
        """Wait for the script, then for its Ray, and return the script's exit status."""
        status = self.process.wait(timeout=200)
        deadline = time.monotonic() + 60
        while self.ray_processes():
            assert time.monotonic() < deadline, self.ray_processes()
            time.sleep(0.1)
        shutil.rmtree(f"/tmp/ray-{self.number}")
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


def saved_steps(job: Job) -> int:
    """Return how many steps the one cell of an interrupted job has saved."""
    (cell,) = (job.store.cell(cell_id) for cell_id in job.store.cell_ids())
    assert cell.state() is CellState.INTERRUPTED
    *_, newest = sorted(cell.path.glob("last/state-*.pt"))
    steps = cell.last_report()["step"]
    assert newest.stem == f"state-{steps:08d}"
    return steps


def test_a_job_saves_and_goes_back_to_the_queue_at_its_time_limit_and_when_preempted(tmp_path):
    job = Job(tmp_path)
    job.wait_for_steps(1)
    job.process.send_signal(signal.SIGUSR1)
    assert job.end() == 130, job.output.read_text()
    assert "2 of 2 nodes have joined Ray\n" in job.output.read_text()
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job.number}\n"
    (step,) = (tmp_path / "srun.log").read_text().splitlines()
    assert step.startswith("--nodes=1 --ntasks=1 --exclude=first --wait=0 --cpus-per-task=1 ")
    limit = saved_steps(job)

    # SLURM's signal reaches the step with the workers, and not the script.
    preempted = Job(tmp_path)
    preempted.wait_for_steps(limit + 1)
    os.kill(preempted.worker(), signal.SIGTERM)
    assert preempted.end() == 130, preempted.output.read_text()
    assert len((tmp_path / "scontrol.log").read_text().splitlines()) == 2
    assert saved_steps(preempted) > limit

    again = Job(tmp_path)
    assert again.end() == 0, again.output.read_text()
    (cell,) = (again.store.cell(cell_id) for cell_id in again.store.cell_ids())
    assert cell.state() is CellState.DONE
    steps = [entry["step"] for entry in cell.log() if "loss" in entry]
    assert steps == list(range(1, len(steps) + 1))  # Each was done once.
    assert len((tmp_path / "scontrol.log").read_text().splitlines()) == 2


def test_a_cancelled_job_saves_and_stays_out_of_the_queue(tmp_path):
    job = Job(tmp_path)
    job.wait_for_steps(1)
    (tmp_path / "state").write_text("COMPLETING\n")
    os.kill(job.worker(), signal.SIGTERM)
    assert job.end() == 130, job.output.read_text()
    assert not (tmp_path / "scontrol.log").exists()
