"""What fits on a cluster when nothing else runs, and whom a launch joins."""

import logging
import os

import pytest

from orchestrator.cluster import connection as cluster
from orchestrator.cluster.connection import Cluster, connected
from orchestrator.errors import UserError

CLUSTER = Cluster("here", 10.3, 3, ((0.3, 0.0), (8.0, 2.0), (2.0, 1.0)))


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"),
    [(1, 0, 10), (1, 1, 3), (4, 1, 2), (3, 0.25, 2), (9, 0, 0), (1, 4, 0), (0.1, 0, 103)],
)
def test_a_process_has_to_fit_into_one_node(cpus, gpus, room):
    assert CLUSTER.room(cpus, gpus) == room


def test_an_answer_is_remembered_for_a_second(monkeypatch):
    now, answers = [5.0], iter(range(9))
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    ask = cluster.remembered(lambda: next(answers))
    assert [ask(), ask()] == [0, 0]
    now[0] += 1.0
    assert [ask(), ask()] == [1, 1]


def mismatch(ray, python):
    """Return what Ray says to a driver of 2.60.0 on Python 3.11.7; see `check_version_info`."""
    return (
        "Version mismatch: The cluster was started with:\n"
        f"    Ray: {ray}\n    Python: {python}\n"
        "This process on node 10.0.0.2 was started with:\n"
        "    Ray: 2.60.0\n    Python: 3.11.7\n"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError(mismatch("2.49.2", "3.11.7")),
            "the Ray cluster at h:1 runs Ray 2.49.2 on Python 3.11.7, but this process Ray 2.60.0 "
            "on Python 3.11.7; use the cluster's here: pip install 'ray[default,tune]==2.49.2'",
        ),
        (
            RuntimeError(mismatch("2.60.0", "3.12.1")),
            "the Ray cluster at h:1 runs Ray 2.60.0 on Python 3.12.1, but this process Ray 2.60.0 "
            "on Python 3.11.7; use the cluster's here: "
            "an environment with Python 3.12.1 and ray[default,tune]==2.60.0",
        ),
        (
            RuntimeError("Version mismatch: in other\n words than today's"),
            "cannot join the Ray cluster at h:1: Version mismatch: in other words than today's",
        ),
        (
            ConnectionError("all is lost:\nno route to host"),
            "cannot join the Ray cluster at h:1: no route to host",
        ),
    ],
)
def test_a_cluster_that_refuses_is_one_line(error, expected, monkeypatch):
    def init(**unused):
        raise error

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(UserError) as refused, connected("h:1", verbose=False):
        pass
    assert str(refused.value) == expected


def test_other_errors_of_ray_are_not_taken_for_a_mismatch(monkeypatch):
    def init(**unused):
        raise RuntimeError("something else")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(RuntimeError, match="something else"), connected("h:1", verbose=False):
        pass


@pytest.mark.parametrize("verbose", [True, False])
def test_a_slower_way_is_said_to_those_who_ask_for_all_messages(verbose, monkeypatch, capsys):
    def init(**unused):
        raise InterruptedError

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("orchestrator.cluster.ray_internals.exists", lambda name: False)
    with pytest.raises(InterruptedError), connected("h:1", verbose=verbose):
        pass
    said = "errors of tasks are printed as well as stored" in capsys.readouterr().err
    assert said == verbose
    assert not logging.getLogger("orchestrator").handlers


TOO_SLOW = Exception("The current node timed out during startup. This could happen because ...")
"""What Ray raises on a busy machine; see `ray._private.node`."""


@pytest.mark.parametrize("slow", [1, 3])
def test_a_ray_that_starts_too_slowly_is_started_again(slow, monkeypatch):
    started = []

    def start(scratch, **unused):
        started.append(scratch)
        raise TOO_SLOW if len(started) <= slow else InterruptedError

    monkeypatch.setattr(cluster, "start_ray", start)
    monkeypatch.setattr(cluster, "send_no_environment", lambda: None)
    expected = UserError if slow == 3 else InterruptedError
    with pytest.raises(expected) as ended, connected(None, verbose=False):
        pass
    assert len(started) == min(slow + 1, 3)
    if slow == 3:
        assert "did not start on this machine within 30 s, 3 times in a row" in str(ended.value)


def test_an_embedded_ray_has_the_cpus_that_this_process_may_use(monkeypatch):
    started = []

    def start(scratch, **options):
        started.append(options["num_cpus"])
        raise InterruptedError

    monkeypatch.setattr(cluster, "start_ray", start)
    monkeypatch.setattr(cluster, "send_no_environment", lambda: None)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        with pytest.raises(InterruptedError), connected(None, verbose=False):
            pass
    finally:
        os.sched_setaffinity(0, allowed)
    assert started == [1]
