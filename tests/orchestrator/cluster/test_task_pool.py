"""The one loop over Ray tasks, with a Ray that does them when it is asked to wait."""

import pytest

from orchestrator.cluster import task_pool
from orchestrator.cluster.task_pool import Call, TaskPool


class FakeRay:
    """Ray as far as a pool uses it: a task runs when it is waited for, the first one first."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def __init__(self):
        self.named = []
        self.cancelled = []

    def options(self, **given):
        self.named.append(given)
        return self

    def remote(self, *arguments):
        return (len(self.named), arguments)

    def wait(self, references, num_returns, timeout):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        _, (value,) = reference
        if isinstance(value, Exception):
            raise value
        return value * 2

    def cancel(self, reference, force):
        self.cancelled.append(reference[1])


@pytest.fixture
def fake(monkeypatch):
    fake = FakeRay()
    monkeypatch.setattr(task_pool, "ray", fake)
    return fake


def never():
    return False


def test_every_outcome_comes_with_its_key(fake):
    pool = TaskPool(fake, limit=2, verb="double")
    pool.submit("zero", 0)
    calls = [Call("one", (1,)), Call("two", (2,), {"num_gpus": 1})]
    assert dict(pool.outcomes(calls, stopping=never)) == {"zero": 0, "one": 2, "two": 4}
    assert fake.named == [
        {"name": "double zero"},
        {"name": "double one"},
        {"name": "double two", "num_gpus": 1},
    ]
    assert len(pool) == 0


def test_an_error_is_an_outcome(fake):
    broken = FakeRay.exceptions.RayError("it broke")
    pool = TaskPool(fake, limit=1, verb="double")
    calls = [Call("bad", (broken,)), Call("good", (1,))]
    assert list(pool.outcomes(calls, stopping=never)) == [("bad", broken), ("good", 2)]


def test_calls_are_drawn_only_when_they_can_begin(fake):
    drawn = []

    def calls():
        for number in range(5):
            drawn.append(number)
            yield Call(str(number), (number,))

    pool = TaskPool(fake, limit=2, verb="double")
    drawn_then = [len(drawn) for _ in pool.outcomes(calls(), stopping=never)]
    assert drawn_then == [2, 3, 4, 5, 5]


def test_it_ticks_while_tasks_run_and_abandons_what_is_left_when_it_is_to_stop(fake):
    ticks, seen = [], []
    pool = TaskPool(fake, limit=2, verb="double")
    calls = [Call(str(number), (number,)) for number in range(9)]
    for key, _ in pool.outcomes(
        calls, stopping=lambda: len(seen) >= 3, tick=lambda: ticks.append(len(seen))
    ):
        seen.append(key)
    assert seen == ["0", "1", "2"]
    assert ticks == [1, 2, 3]
    assert fake.cancelled == [(3,)]
    assert len(pool) == 0


def test_a_consumer_that_fails_leaves_nothing_running(fake):
    pool = TaskPool(fake, limit=3, verb="double")
    outcomes = pool.outcomes([Call(str(n), (n,)) for n in range(3)], stopping=never)
    assert next(outcomes) == ("0", 0)
    outcomes.close()
    assert fake.cancelled == [(1,), (2,)]


def test_what_cannot_begin_yet_is_drawn_again_when_something_has_ended(fake):
    pool = TaskPool(fake, limit=3, verb="double")
    ended = []

    def calls():
        yield Call("0", (0,))
        while not ended:
            yield None
        yield Call("1", (1,))

    for key, _ in pool.outcomes(calls(), stopping=never):
        ended.append(key)
    assert ended == ["0", "1"]
