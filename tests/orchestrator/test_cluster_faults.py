"""Faults of a cluster of several nodes: none costs more than a moment, none changes a weight."""

import os
import shlex
import sys

import pytest
import yaml
from launching import Gate, Launch, assert_tidy, assert_whole, layered
from local_cluster import LocalCluster

from orchestrator.store.store import Store
from orchestrator.study.study_file import SHIPPED

pytestmark = pytest.mark.slow

SECONDS_TO_END_WITHOUT_HEAD = 300
"""About 45 on a quiet machine; Ray alone would take 60 and say nothing."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return the folder of all stores."""
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def unreadable(place):
    """Return a file: while it exists, processes on the cluster cannot read what lies in `place`."""
    return place / "unreadable"


@pytest.fixture(scope="module")
def gate(place):
    """Return the gate of all launches on the cluster; it is open."""
    return Gate(place / "gate")


@pytest.fixture(scope="module")
def shared_cluster(unreadable, gate):
    """Return a cluster with a head and no other node yet."""
    faults = layered(FAULT_READING=str(unreadable), **gate.faults)
    with LocalCluster({"TOKENSWEEP_DEVICE": "cpu"} | faults) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster):
    """Return the cluster with two nodes, each of which has room for one cell."""
    while len(shared_cluster.nodes) < 2:
        shared_cluster.add_node(cpus=1, gpus=1)
    return shared_cluster


@pytest.fixture
def storage(place, request):
    """Return a place for a test's stores."""
    storage = place / request.node.name
    storage.mkdir()
    return storage


def resume_command(launch: Launch) -> list[str]:
    """Return the command that a launch's last line says to resume with."""
    last_line = launch.console.splitlines()[-1]
    assert "everything is saved" in last_line
    return shlex.split(last_line.split("esume with: ")[1])


def test_lost_nodes_cost_no_retry_and_added_ones_are_used_at_once(
    storage, cluster, gate, undisturbed
):
    """First a raylet alone is killed, then all of a node at once."""
    gate.close(after=4)
    launch = cluster.launch(storage)
    for lost, step in ((1, 4), (2, 8)):
        launch.wait_until(lambda step=step: len(launch.cells_at(step)) == 2)
        node = cluster.nodes[0]
        if lost == 1:
            node.kill_raylet()
            launch.wait_until(lambda: launch.events("node lost"))
        cluster.lose(node)
        added = cluster.add_node(cpus=1, gpus=1)
        launch.wait_until(added.trainers)
        # One for each cell that ran there: the other node's cells notice nothing.
        assert len(launch.events("node lost")) == lost
        gate.close(after=8)
    gate.open()
    launch.end(0)
    assert_whole(launch, undisturbed, {})
    assert not launch.events("attempt failed")
    assert_tidy(launch)


def test_a_node_lost_while_comparing_costs_nothing(finished, storage, cluster, unreadable):
    """It is lost while it waits for a storage that does not let it load a cell."""
    finished.copy_uncompared(storage)
    smoke = yaml.safe_load((SHIPPED / "smoke.yaml").read_text())
    unreadable.write_text("EIO")
    launch = cluster.launch(storage, stages="compare", study=smoke)
    node = cluster.nodes[0]
    refused = unreadable.with_name("unreadable.log")
    launch.wait_until(lambda: refused.exists() and node.trainers("load "))
    cluster.lose(node)
    unreadable.unlink()
    launch.end(0)
    assert_tidy(launch)
    finished.assert_same_tables(Store(storage / "smoke"))


def test_without_a_head_the_driver_ends_and_says_how_to_go_on(storage, cluster, gate, undisturbed):
    gate.close(after=5)
    launch = cluster.launch(storage)
    launch.wait_for_step(5)
    cluster.head.kill_gcs()
    assert launch.process.wait(timeout=SECONDS_TO_END_WITHOUT_HEAD) == 1
    assert f"lost the head of the Ray cluster at {cluster.address}" in launch.console
    interpreter, *_ = resume_command(launch)
    assert os.path.samefile(interpreter, sys.executable)
    assert_tidy(launch)
    finished = launch.results()
    cluster.restart()
    gate.open()
    again = cluster.launch(storage)
    again.end(0)
    assert_whole(again, undisturbed, finished)
