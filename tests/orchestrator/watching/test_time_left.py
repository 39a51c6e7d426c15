"""The time left: what is expected, and how sure that is."""

import numpy as np
import pytest

from orchestrator.watching.time_left import MeasuredTraining, RemainingTime, time_left


def test_nothing_is_guessed_from_nothing():
    cells = [RemainingTime(1.0, 1.0)]
    assert time_left([], cells, 1.0) is None
    assert time_left([MeasuredTraining(1.0, 10.0)], [], 1.0) is None
    assert time_left([MeasuredTraining(1.0, 10.0)], cells, 0.0) is None


def test_one_cell_gives_no_interval():
    left = time_left([MeasuredTraining(2.0, 20.0)], [RemainingTime(1.0, 1.0)] * 6, reserved=2.0)
    assert (left.seconds, left.low, left.high) == (30.0, None, None)


def test_a_cell_that_has_just_begun_is_not_a_second_one():
    measured = [MeasuredTraining(1.0, 10.0), MeasuredTraining(0.001, 1.0)]
    assert time_left(measured, [RemainingTime(1.0, 1.0)], 1.0).low is None


def test_cells_that_are_alike_leave_no_doubt():
    left = time_left([MeasuredTraining(1.0, 10.0)] * 3, [RemainingTime(1.0, 1.0)] * 4, reserved=2.0)
    assert left.seconds == left.low == left.high == 20.0


def test_the_longest_cell_alone_bounds_the_time_from_below():
    measured = [MeasuredTraining(1.0, 10.0)] * 3
    cells = [RemainingTime(6.0, 1.0), *[RemainingTime(0.5, 1.0)] * 4]
    assert time_left(measured, cells, reserved=4.0).seconds == 60.0
    student = [RemainingTime(3.0, 1.0), RemainingTime(2.0, 1.0, after=3.0)]
    assert time_left(measured, student, reserved=4.0).seconds == 50.0


def test_shares_of_a_gpu_count_as_shares():
    # A unit costs 10 GPU-seconds; on a quarter of a GPU it takes 40 s.
    left = time_left(
        [MeasuredTraining(1.0, 10.0)] * 3, [RemainingTime(1.0, 0.25)] * 4, reserved=1.0
    )
    assert left.seconds == 40.0


@pytest.mark.parametrize("count", [3, 10, 40])
def test_the_interval_covers_four_out_of_five(count):
    random = np.random.default_rng(count)
    covered, widths = 0, []
    for _ in range(2000):
        work = random.uniform(1, 3, count + 50)
        cost = work * random.normal(10.0, 3.0, count + 50)
        measured = [
            MeasuredTraining(*pair) for pair in zip(work[:count], cost[:count], strict=True)
        ]
        left = time_left(measured, [RemainingTime(w, 1.0) for w in work[count:]], reserved=5.0)
        covered += left.low <= cost[count:].sum() / 5.0 <= left.high
        widths.append((left.high - left.low) / left.seconds)
    assert covered / 2000 == pytest.approx(0.8, abs=0.04)
    assert np.mean(widths) < {3: 0.9, 10: 0.3, 40: 0.2}[count]


def test_the_interval_of_one_long_cell_covers_it_as_often():
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(2000):
        measured = [MeasuredTraining(1.0, cost) for cost in random.normal(10.0, 3.0, 6)]
        left = time_left(measured, [RemainingTime(4.0, 1.0)], reserved=8.0)
        covered += left.low <= 4.0 * random.normal(10.0, 3.0) <= left.high
    assert covered / 2000 == pytest.approx(0.8, abs=0.04)
