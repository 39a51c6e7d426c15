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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "clusters" / "slurm.sbatch"
SRUN = """#!/usr/bin/env bash
echo "$@" >> "$STAND_INS/srun.log"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$STAND_INS/scontrol.log"
"""
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
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(text)
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
        return {
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_ON_NODE": "1",
            "SLURMD_NODENAME": "first",
            "STAND_INS": str(self.folder),
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "HOME": str(self.folder),
        }

    def wait_for_reports(self) -> None:
        """Return when the cell has reported a loss."""
        deadline = time.monotonic() + 120
        while not any('"loss"' in log.read_text() for log in self.logs()):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def logs(self) -> list[Path]:
        """Return the cells' logs."""
        return list(self.store.path.glob("cells/*/log.jsonl"))

    def end(self) -> int:
        """Wait for the script, then for its Ray, and return the script's exit status."""
        status = self.process.wait(timeout=120)
        deadline = time.monotonic() + 60
        while self.ray_processes():
            assert time.monotonic() < deadline, self.ray_processes()
            time.sleep(0.1)
        shutil.rmtree(f"/tmp/ray-{self.number}")
        return status

    def ray_processes(self) -> list[str]:
        """Return what still runs of this job's Ray."""
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes().replace(b"\0", b" ").decode())
            except (FileNotFoundError, ProcessLookupError):
                continue
        return [line for line in lines if f"/tmp/ray-{self.number}/" in line]


def unused_job() -> int:
    """Return a job's number whose port, which the script derives from it, is free."""
    for number in range(1, 10000):
        try:
            socket.create_server(("", 20000 + number)).close()
        except OSError:
            continue
        if not Path(f"/tmp/ray-{number}").exists():
            return number
    raise AssertionError("all ports are in use")


def test_a_job_that_is_told_of_its_end_saves_goes_back_to_the_queue_and_resumes(tmp_path):
    job = Job(tmp_path)
    job.wait_for_reports()
    job.process.send_signal(signal.SIGUSR1)
    assert job.end() == 130, job.output.read_text()
    assert "2 of 2 nodes have joined Ray\n" in job.output.read_text()
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job.number}\n"
    head, others = (tmp_path / "srun.log").read_text().splitlines()
    assert "--nodes=1 --ntasks=1 --nodelist=first " in head
    assert "--nodes=1 --ntasks=1 --exclude=first " in others
    (cell,) = job.store.cell_ids()
    assert job.store.cell(cell).state() is CellState.INTERRUPTED
    assert list((job.store.path / "cells" / cell / "last").glob("state-*.pt"))
    steps = len(job.store.cell(cell).log())

    again = Job(tmp_path)
    assert again.end() == 0, again.output.read_text()
    assert again.store.cell(cell).state() is CellState.DONE
    resumed = again.store.cell(cell).log()[steps:]
    assert resumed[0]["step"] == steps + 1
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job.number}\n"
