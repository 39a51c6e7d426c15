"""A study on a Ray cluster that was there before it and stays after it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.store import CellState, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FULL_GRID = Path(__file__).parents[2] / "experiments" / "full_grid.py"


@pytest.fixture
def cluster(tmp_path_factory):
    """Return the address of a Ray cluster of one node, started as an administrator would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    folder = tmp_path_factory.mktemp("r")  # Short: Ray puts sockets below it.
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=3"]
    process = subprocess.Popen(
        [*command, "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(port)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=60)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("given", ["--address", "RAY_ADDRESS"])
def test_a_given_cluster_is_used_and_left_running(tmp_path, cluster, given):
    command = [sys.executable, FULL_GRID, "--study", "smoke", "--storage", tmp_path]
    command += ["--only", "*topk*r0.5*", *(["--address", cluster] if given == "--address" else [])]
    environment = os.environ | ({"RAY_ADDRESS": cluster} if given == "RAY_ADDRESS" else {})
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    first = ended.stdout.splitlines()[0]
    assert first == f"smoke: running on the Ray cluster at {cluster} (3 CPUs, 0 GPUs)"
    store = Store(tmp_path / "smoke")
    (done,) = [cell for cell in store.cell_ids() if "topk-tiny-r0.5" in cell]
    assert store.cell(done).state() is CellState.DONE
    wait_for(int(cluster.rpartition(":")[2]))
