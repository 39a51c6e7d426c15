"""How much of a machine a cell reserves, from the memory it takes."""

import math

import pytest

from orchestrator.study.study import Resources
from orchestrator.training.shares import Hardware, Reservation, share_for

GIB = 2**30
GPUS = Hardware.of([{"CPU": 32.0, "GPU": 4.0, "memory": 256.0 * GIB, "accelerator_type:A100": 1.0}])
CPUS = Hardware.of([{"CPU": 16.0, "memory": 32.0 * GIB}, {"CPU": 8.0, "memory": 32.0 * GIB}])


@pytest.mark.parametrize(
    ("needed", "share"),
    [(0.0, 1 / 16), (0.06, 1 / 16), (0.07, 1 / 8), (0.25, 0.25), (0.26, 0.5), (0.51, 1), (9, 1)],
)
def test_shares_are_halves_of_halves(needed, share):
    assert share_for(needed) == share


def test_the_share_of_a_cell_is_that_of_all_its_workers():
    assert Reservation(cpu=2.0, gpu=0.0, workers=3).share == 6.0
    assert Reservation(cpu=2.0, gpu=0.5, workers=3).share == 1.5


@pytest.mark.parametrize(
    ("wanted", "taken", "reserved"),
    [
        ({"gpu": "auto"}, 0.1, (1.0, 0.125)),
        ({"gpu": "auto"}, 0.21, (1.0, 0.5)),  # 0.25 with head room, and a little more.
        ({"gpu": "auto"}, 0.01, (1.0, 0.125)),  # A GPU has 8 CPUs.
        ({"gpu": "auto", "cpu": 4.0}, 0.01, (4.0, 0.5)),
        ({"gpu": "auto", "cpu": 0.5}, 0.01, (0.5, 1 / 16)),
        ({"gpu": "auto"}, math.inf, (1.0, 1.0)),
        ({"gpu": "auto", "cpu": "auto"}, 0.2, (2.0, 0.25)),
        ({"gpu": 0.5, "cpu": "auto"}, math.inf, (4.0, 0.5)),
        ({"gpu": 0.3}, math.inf, (1.0, 0.3)),
        ({"gpu": 0.0, "cpu": "auto"}, math.inf, (1.0, 0.0)),
    ],
)
def test_a_cell_on_a_gpu_reserves_what_its_memory_and_its_cpus_ask_for(wanted, taken, reserved):
    assert GPUS.reserved(Resources(**wanted), taken) == Reservation(*reserved, workers=1)


@pytest.mark.parametrize(
    ("wanted", "taken", "cpus"),
    [
        ({"cpu": "auto"}, 0.5, 1.0),
        ({"cpu": "auto"}, 1.8, 3.0),
        ({"cpu": "auto"}, 90.0, 16.0),
        ({"cpu": "auto"}, math.inf, 16.0),
        ({"gpu": "auto"}, 1.8, 1.0),
        ({"cpu": 2.0}, 1.8, 2.0),
    ],
)
def test_a_cell_without_gpus_reserves_cpus_for_its_memory(wanted, taken, cpus):
    assert CPUS.reserved(Resources(**wanted), taken) == Reservation(cpus, 0.0, workers=1)


def test_what_is_calibrated_depends_on_what_there_is():
    both = ({"gpu": "auto"}, {"cpu": "auto"}, {"cpu": 2.0, "gpu": 0.5})
    assert [GPUS.calibrates(Resources(**wanted)) for wanted in both] == [True, False, False]
    assert [CPUS.calibrates(Resources(**wanted)) for wanted in both] == [False, True, False]


def test_the_machine_with_least_for_each_gpu_decides():
    mixed = Hardware.of(
        [
            {"CPU": 16.0, "memory": 8.0 * GIB},
            {"CPU": 8.0, "GPU": 1.0, "memory": 64.0 * GIB, "accelerator_type:A100": 1.0},
            {"CPU": 8.0, "GPU": 2.0, "memory": 64.0 * GIB, "accelerator_type:A100": 1.0},
            {"CPU": 64.0, "GPU": 8.0, "memory": 64.0 * GIB},
        ]
    )
    assert mixed.memory == {"A100": 32.0 * GIB, "GPU": 8.0 * GIB}
    assert (mixed.cpus_a_gpu, mixed.most_cpus, mixed.has_gpus) == (4.0, 64.0, True)
    assert CPUS.memory == {"CPU": 2.0 * GIB}
    assert not CPUS.has_gpus
