"""Parts of a step: what a recorder counts, and for what."""

import time

import pytest
import torch

from trainables.loop.part_timing import PartTimer, part, recording


@pytest.fixture
def recorder():
    return PartTimer(torch.device("cpu"))


def test_a_part_counts_each_time_it_is_done(recorder):
    with recording(recorder):
        for _ in range(3):
            with part("forward"):
                time.sleep(0.002)
    assert recorder.times == {"forward": 3}
    assert recorder.seconds["forward"] >= 0.006


def test_what_happens_within_a_part_counts_for_that_one(recorder):
    with recording(recorder), part("evaluation"), part("data wait"):
        pass
    assert recorder.times == {"evaluation": 1}


def test_a_part_that_fails_is_over(recorder):
    with recording(recorder):
        with pytest.raises(KeyError), part("forward"):
            raise KeyError
        with part("backward"):
            pass
    assert recorder.times == {"forward": 1, "backward": 1}


def test_nothing_is_recorded_outside(recorder):
    with recording(recorder):
        pass
    with part("forward"):
        pass
    assert not recorder.times
