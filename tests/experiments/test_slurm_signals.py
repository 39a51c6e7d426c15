"""What the batch script for SLURM does on signals, with stand-ins for all that it starts."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "clusters" / "slurm.sbatch"
DRIVER_FAILS, SAVED = 1, 130
HEAD = "echo Ray runtime started.; exec sleep 300"
RAY = """
case "$*" in
  get-auth-token*) echo token ;;
  *--head*) {head} ;;
  *) echo $$ > {folder}/worker; exec sleep 300 ;;
esac
"""
PYTHON = """
cd {folder}
if [[ $1 == - ]]; then cat > joining; while [[ -e wait ]]; do sleep 0.05; done; exit; fi
trap 'echo told >> told' TERM
trap 'exit 1' USR2
echo $$ > driver
while [[ ! -e told || -e saving ]]; do sleep 0.05; done
exit 130
"""


class Job:
    """The batch script with stand-ins for SLURM, Ray and the study, in a folder of their own."""

    def __init__(
        self, folder: Path, state: str = "RUNNING", nodes: int = 2, head: str = HEAD
    ) -> None:
        self.folder = folder
        self.write("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
        self.write("squeue", f"echo {state}")
        self.write("scontrol", f'echo "$@" >> {folder}/scontrol.log')
        self.write(".venv/bin/ray", RAY.format(folder=folder, head=head))
        self.write(".venv/bin/python", PYTHON.format(folder=folder))
        environment = {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_CPUS_ON_NODE": "1",
            "SLURMD_NODENAME": "first",
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
        with (folder / "job.log").open("w") as log:
            self.process = subprocess.Popen(
                ["bash", SCRIPT],
                cwd=folder,
                env=os.environ | environment,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )

    def write(self, name: str, script: str) -> None:
        """Write a stand-in."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (self.folder / name).chmod(0o755)

    def pid_of(self, name: str) -> int:
        """Return the process that stands for the driver or the workers, once it runs."""
        wait_until(lambda: (self.folder / name).exists() and (self.folder / name).read_text())
        return int((self.folder / name).read_text())

    def lines(self, name: str) -> list[str]:
        """Return what stand-ins have noted."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def end(self) -> tuple[int, bool]:
        """Return the script's exit status, and whether it put the job back into the queue."""
        status = self.process.wait(timeout=60)
        return status, bool(self.lines("scontrol.log"))


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a job; all that it started is ended afterwards."""
    jobs = []

    def started(**options) -> Job:
        jobs.append(Job(tmp_path, **options))
        return jobs[-1]

    yield started
    for job in jobs:
        try:
            os.killpg(job.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_signal_saves_and_only_the_time_limit_s_puts_back(start, nodes, number, requeued):
    job = start(nodes=nodes)
    job.pid_of("driver")
    job.process.send_signal(number)
    assert job.end() == (SAVED, requeued)
    assert job.lines("told") == ["told"]


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_the_end_of_all_workers_saves_and_puts_back_unless_cancelled(start, state, requeued):
    job = start(state=state)
    job.pid_of("driver")
    os.kill(job.pid_of("worker"), signal.SIGTERM)
    assert job.end() == (SAVED, requeued)
    assert job.lines("told") == ["told"]


def test_the_driver_is_told_once(start, tmp_path):
    """Told twice, it would end without saving."""
    job = start()
    job.pid_of("driver")
    (tmp_path / "saving").touch()
    job.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: job.lines("told"))
    os.kill(job.pid_of("worker"), signal.SIGTERM)
    job.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        assert job.lines("told") == ["told"]
        time.sleep(0.05)
    (tmp_path / "saving").unlink()
    assert job.end() == (SAVED, True)


def test_a_signal_before_the_study_starts_ends_the_job(start, tmp_path):
    (tmp_path / "wait").touch()
    job = start()
    wait_until((tmp_path / "joining").exists)
    job.process.send_signal(signal.SIGUSR1)
    (tmp_path / "wait").unlink()
    assert job.end() == (SAVED, True)
    assert not (tmp_path / "driver").exists()


def test_a_study_that_fails_is_not_put_back(start):
    job = start()
    os.kill(job.pid_of("driver"), signal.SIGUSR2)
    assert job.end() == (DRIVER_FAILS, False)


def test_a_head_that_does_not_start_is_told(start):
    job = start(head="echo no room; exit 1")
    assert job.end() == (1, False)
    assert job.lines("job.log") == ["Ray's head did not start:", "no room"]
