"""What fits on a cluster when nothing else runs."""

import pytest

from orchestrator.cluster import connection as cluster
from orchestrator.cluster.connection import Cluster

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
