"""Faults of a cluster of several nodes: none costs more than a moment, none changes a weight."""

import os
import shlex
import shutil
import signal
import sys

import pytest
import yaml
from launching import Launch, assert_resumed, assert_tidy, assert_whole, layered
from local_cluster import LocalCluster

from orchestrator.storage.store import Store
from orchestrator.study import SHIPPED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SECONDS_TO_END_WITHOUT_HEAD = 300
"""About 45 on a quiet machine; Ray alone would take 60 and say nothing."""


@pytest.fixture
def unreadable(tmp_path):
    """Return a file: while it exists, processes on the cluster cannot read what lies beside it."""
    return tmp_path / "unreadable"


@pytest.fixture
def cluster(unreadable):
    """Return a cluster of a head and two nodes, each of which has room for one cell."""
    faults = layered(FAULT_READING=str(unreadable))
    with LocalCluster({"TOKENSWEEP_DEVICE": "cpu"} | faults) as cluster:
        for _ in range(2):
            cluster.add_node(cpus=1, gpus=1)
        yield cluster


def resume_command(launch: Launch) -> list[str]:
    """Return the command that a launch's last line says to resume with."""
    last_line = launch.console.splitlines()[-1]
    assert "everything is saved" in last_line
    return shlex.split(last_line.split("esume with: ")[1])


def test_lost_nodes_cost_no_retry_and_added_ones_are_used_at_once(tmp_path, cluster, undisturbed):
    """First a raylet alone is killed, then all of a node at once."""
    launch = cluster.launch(tmp_path)
    for lost in (1, 2):
        launch.wait_for_reports(launch.reports() + 4)
        cluster.freeze(launch)
        node = cluster.nodes[0]
        if lost == 1:
            node.kill_raylet()
            launch.wait_until(lambda: launch.events("node lost"))
        cluster.lose(node)
        added = cluster.add_node(cpus=1, gpus=1)
        launch.wait_until(added.trainers)
        cluster.thaw()
        # One for each cell that ran there: the other node's cells notice nothing.
        assert len(launch.events("node lost")) == lost
    launch.end(0)
    assert_whole(launch, undisturbed, {})
    assert not launch.events("attempt failed")
    assert_tidy(launch)


def test_a_node_lost_while_comparing_costs_nothing(finished, tmp_path, cluster, unreadable):
    """It is lost while it waits for a storage that does not let it load a cell."""
    shutil.copytree(finished.store.path, tmp_path / "smoke")
    store = Store(tmp_path / "smoke")
    for folder in (store.tables, store.comparisons):
        shutil.rmtree(folder)
    smoke = yaml.safe_load((SHIPPED / "smoke.yaml").read_text())
    unreadable.write_text("EIO")
    launch = cluster.launch(tmp_path, stages="compare", study=smoke)
    node = cluster.nodes[0]
    refused = unreadable.with_name("unreadable.log")
    launch.wait_until(lambda: refused.exists() and node.trainers("load "))
    cluster.lose(node)
    unreadable.unlink()
    launch.end(0)
    assert_tidy(launch)
    found, expected = (
        {path.name: path.read_bytes() for path in at.tables.glob("*.parquet")}
        for at in (store, finished.store)
    )
    assert found == expected != {}


def test_without_a_head_the_driver_ends_and_says_how_to_go_on(tmp_path, cluster, undisturbed):
    launch = cluster.launch(tmp_path)
    launch.wait_for_reports(10)
    cluster.head.kill_gcs()
    assert launch.process.wait(timeout=SECONDS_TO_END_WITHOUT_HEAD) == 1
    assert f"lost the head of the Ray cluster at {cluster.address}" in launch.console
    interpreter, *_ = resume_command(launch)
    assert os.path.samefile(interpreter, sys.executable)
    assert_tidy(launch)
    finished = launch.results()
    cluster.restart()
    again = cluster.launch(tmp_path)
    again.end(0)
    assert_whole(again, undisturbed, finished)


def test_a_second_driver_is_refused_until_the_first_is_dead(tmp_path, cluster, undisturbed):
    """They sit on two clusters and share the storage; the second also has a wild clock."""
    first = cluster.launch(tmp_path)
    first.wait_for_reports(10)
    second = Launch(tmp_path)
    second.end(2)
    refusal = second.console.strip()
    assert f"is being run by process {first.process.pid} on {os.uname().nodename}" in refusal
    assert len(refusal.splitlines()) == 1
    assert first.process.poll() is None
    first.process.send_signal(signal.SIGKILL)
    first.end()
    assert_resumed(tmp_path, undisturbed, first.results())
