"""A study that waits for others on its cluster reports it, once, and nothing else does."""

import pytest

from orchestrator.cluster import room as module
from orchestrator.cluster.room import RoomWatch


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def cluster(clock):
    """Return a cluster of 8 CPUs and 2 GPUs, and what a launch on it does."""

    class Cluster:
        def __init__(self):
            self.free, self.working = {"CPU": 1.0}, False
            self.said = []
            needs = [(4.0, 2.0), (2.0, 0.5), (8.0, 1.0)]
            self.watch = RoomWatch(
                "the cluster",
                needs,
                lambda: self.working,
                self.said.append,
                lambda: self.free,
                lambda: {"CPU": 8.0, "GPU": 2.0},
            )

        def look(self, seconds):
            for _ in range(seconds * 10):
                clock.now += 0.1
                self.watch.look()

    return Cluster()


def test_what_others_hold_is_reported_once_within_half_a_minute(cluster):
    cluster.look(15)
    assert cluster.said == []
    cluster.look(15)
    assert cluster.said == [
        "waiting for room on the cluster: the smallest cell reserves 2 CPU, 1 of 8 are free; the "
        "smallest cell reserves 0.5 GPU, 0 of 2 are free; "
        "other jobs hold the rest, or a process of this study is starting"
    ]
    cluster.look(120)
    assert len(cluster.said) == 1


def test_it_is_reported_again_when_the_study_has_worked_meanwhile(cluster):
    cluster.look(30)
    cluster.working = True
    cluster.look(60)
    cluster.working = False
    cluster.look(15)
    assert len(cluster.said) == 1
    cluster.look(15)
    assert len(cluster.said) == 2


def test_nothing_is_reported_where_there_is_room_or_work(cluster):
    cluster.free = {"CPU": 2.0, "GPU": 0.5}
    cluster.look(60)
    cluster.free, cluster.working = {}, True
    cluster.look(60)
    assert cluster.said == []


def test_ray_is_asked_nothing_while_the_study_works(clock):
    def refuse():
        raise AssertionError("asked")

    watch = RoomWatch("the cluster", [(1.0, 0.0)], lambda: True, print, refuse, refuse)
    for _ in range(100):
        clock.now += 1.0
        watch.look()
