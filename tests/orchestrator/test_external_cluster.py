"""A study on a Ray cluster that was there before it and stays after it."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from launching import Gate, wait_until
from local_cluster import PATIENT, Node
from ports import free_ports, listens

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState

pytestmark = pytest.mark.slow

FULL_GRID = Path(__file__).parents[2] / "experiments" / "full_grid.py"
RAY = Path(sys.executable).with_name("ray")


TOKEN = "a-token-of-32-characters-at-least"


@dataclass(frozen=True)
class RunningCluster:
    """A Ray cluster of one node, and how to reach it."""

    address: str
    dashboard: str
    environment: dict[str, str]
    """That of a user who knows the cluster's token."""

    def job(self, *arguments: object, known: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `ray job` with or without the token."""
        running = self.start_job(*arguments, known=known)
        output, errors = running.communicate()
        return subprocess.CompletedProcess(running.args, running.returncode, output, errors)

    def start_job(self, *arguments: object, known: bool = True) -> subprocess.Popen[str]:
        """Begin to run `ray job`."""
        return subprocess.Popen(
            [RAY, "job", arguments[0], f"--address={self.dashboard}", *arguments[1:]],
            env=self.environment if known else os.environ | {"RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """Return the gate of all cells on the cluster; it is open."""
    return Gate(tmp_path_factory.mktemp("gate") / "gate")


@pytest.fixture(scope="module")
def short_folder():
    """Return a folder whose path is short: Ray puts sockets below it."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(short_folder, gate):
    """Return a Ray cluster of one node, started as an administrator would."""
    port, dashboard_port, agent_port = free_ports(3)
    token = {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "token"}
    head = Node(
        short_folder,
        "--head",
        f"--port={port}",
        f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--temp-dir={short_folder}",
        cpus=3,
        gpus=0,
        env=PATIENT | token | gate.env | {"RAY_JOB_STOP_WAIT_TIME_S": "120"},
    )
    try:
        wait_until(
            lambda: head.is_up and listens(dashboard_port) and listens(agent_port),
            head.output.read_text,
        )
        yield RunningCluster(
            f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}", os.environ | token
        )
    finally:
        head.kill()


def test_a_given_cluster_is_used_and_left_running(tmp_path, cluster):
    """It is given by an option; in the next test by `RAY_ADDRESS`, as Ray gives it to its jobs."""
    command = [sys.executable, FULL_GRID, "--study", "smoke", "--storage", tmp_path]
    address = cluster.address
    command += ["--only", "*topk*r0.5*", "--address", address]
    ended = subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    first = ended.stdout.splitlines()[0]
    assert first == f"smoke: running on the Ray cluster at {address} (3 CPUs, 0 GPUs)"
    store = Store(tmp_path / "smoke")
    (done,) = [cell for cell in store.cell_ids() if "topk-tiny-r0.5" in cell]
    assert store.cell(done).state() is CellState.DONE
    assert listens(int(address.rpartition(":")[2]))


def test_a_submitted_job_is_stopped_with_all_saved_and_goes_on_as_the_next_one(
    tmp_path, cluster, gate
):
    """The docs' commands: submit, status, logs, stop; nobody without the token may submit."""
    study = ["--study", "smoke", "--storage", tmp_path, "--only", "*topk*r0.5*"]
    saving = ["--set", "recipes.smoke.checkpoint_minutes=1e-6"]
    entrypoint = ["--", sys.executable, FULL_GRID, *study, *saving]
    refused = cluster.job("submit", "--no-wait", *entrypoint, known=False)
    assert refused.returncode != 0
    assert "authentication is enabled" in refused.stderr
    assert not (tmp_path / "smoke").exists()

    gate.close(after=2)
    submitted = cluster.job("submit", "--no-wait", "--submission-id=first", *entrypoint)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    wait_until(
        lambda: any(
            '"loss"' in log.read_text() for log in tmp_path.glob("smoke/cells/*/log.jsonl")
        ),
        lambda: cluster.job("logs", "first").stdout,
    )
    assert "RUNNING" in cluster.job("status", "first").stdout
    stop = cluster.start_job("stop", "first")
    wait_until(
        lambda: list(tmp_path.glob("smoke/stop-*")), lambda: cluster.job("logs", "first").stdout
    )
    gate.open()
    output, errors = stop.communicate()
    assert stop.returncode == 0, output + errors
    assert "Job 'first' was stopped" in cluster.job("status", "first").stdout
    told = cluster.job("logs", "first").stdout
    assert "smoke: running on the Ray cluster at " in told
    assert "interrupted; everything is saved. Resume with: " in told
    store = Store(tmp_path / "smoke")
    (cell,) = [store.cell(name) for name in store.cell_ids() if "topk-tiny-r0.5" in name]
    assert cell.state() is CellState.INTERRUPTED
    steps = cell.last_report()["step"]

    again = cluster.job("submit", "--submission-id=second", *entrypoint)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Job 'second' succeeded" in cluster.job("status", "second").stdout
    assert cell.state() is CellState.DONE
    resumed = [entry["step"] for entry in cell.log() if entry["step"] > steps]
    assert min(resumed) == steps + 1
