"""Writes beside the training: one at a time, in order, and what they fail with comes back once."""

import threading

import pytest

from trainables.storage.background import BackgroundWriter, WriteStatistics
from trainables.storage.retry import retrying


@pytest.fixture
def words():
    return []


@pytest.fixture
def writer(words):
    return BackgroundWriter(words.append)


def test_a_write_does_not_hold_up_who_asked_for_it(writer):
    gate = threading.Event()
    writer.begin(lambda: gate.wait(60) and 7)
    assert writer.written() == WriteStatistics()
    gate.set()
    writer.wait()
    written = writer.written()
    assert (written.bytes, written.seconds > 0) == (7, True)
    assert writer.written() == WriteStatistics()


def test_the_next_write_waits_for_the_one_before(writer):
    order, gate = [], threading.Event()

    def first():
        order.append("begins" if gate.wait(60) else "was never let through")
        return 1

    writer.begin(first)
    threading.Timer(0.1, gate.set).start()
    writer.begin(lambda: order.append("follows") or 2)
    assert order[0] == "begins"
    writer.wait()
    assert (order, writer.written().bytes) == (["begins", "follows"], 3)


@pytest.mark.parametrize("asked", ["wait", "written", "begin"])
def test_what_a_write_fails_with_is_raised_once(writer, asked):

    def fail():
        raise OSError("torn")

    writer.begin(fail)
    writer._under_way.exception(60)
    arguments = [lambda: 1] if asked == "begin" else []
    with pytest.raises(OSError, match="torn"):
        getattr(writer, asked)(*arguments)
    writer.wait()
    assert writer.written() == WriteStatistics()


def test_a_write_is_patient_and_tells(writer, words, tmp_path):
    answers = iter([OSError(5, "Input/output error"), 3])

    def operation():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    writer.begin(lambda: retrying(operation, tmp_path))
    writer.wait()
    assert writer.written().bytes == 3
    waiting, again = words
    assert waiting.startswith("waiting for the storage, ")
    assert again.startswith("the storage works again after ")
