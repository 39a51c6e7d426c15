"""How long cells are expected to take: trained ones know best, then calibrations, then work."""

import pytest

from orchestrator.store.store import Store
from orchestrator.training.calibrating import kind_of
from orchestrator.training.expected import ASSUMED_MACS_PER_SECOND, expected_seconds, trained_rates
from trainables.cell.cell import Cell
from trainables.recipe import Recipe


def cell(method, keep_rate=0.5):
    return Cell(
        dataset="digits",
        method=method,
        capacity="tiny",
        keep_rate=keep_rate,
        reduction_loc=(3,),
        recipe=Recipe(host="digits_{capacity}_patch4_32", image_size=32),
    )


CELLS = {method: cell(method) for method in ("topk", "tome", "ats")}
TOPK, TOME, ATS = map(kind_of, CELLS.values())
MACS = {cell.id: 1e12 for cell in CELLS.values()}


def seconds(trained, calibrated):
    return list(expected_seconds(MACS, list(CELLS.values()), trained, calibrated).values())


@pytest.mark.parametrize(
    ("trained", "calibrated", "expected"),
    [
        ({}, {}, [1e12 / ASSUMED_MACS_PER_SECOND] * 3),
        ({}, {TOPK: 1e-12}, [1.0, 1.0, 1.0]),
        ({}, {TOPK: 1e-12, TOME: 3e-12}, [1.0, 3.0, 2.0]),
        ({TOPK: 4e-12}, {}, [4.0, 4.0, 4.0]),
        ({TOPK: 4e-12}, {TOPK: 1e-12, TOME: 3e-12}, [4.0, 12.0, 8.0]),  # Company costs 4 times.
    ],
)
def test_the_best_source_counts_and_the_others_are_brought_in_line(trained, calibrated, expected):
    assert seconds(trained, calibrated) == pytest.approx(expected)


def test_trained_cells_of_any_rate_tell_of_their_kind(tmp_path):
    store = Store(tmp_path)
    cells = [cell("topk", 0.5), cell("topk", 0.7), cell("topk", 0.9), cell("tome"), cell("ats")]
    took = [{"train_seconds": 10.0, "macs": 5.0}, {"train_seconds": 30.0, "macs": 5.0}]
    for trained, result in zip(cells, [*took, took[0], {"train_seconds": 1.0}], strict=False):
        stored = store.cell(trained.id)
        stored.save_best(b"weights", {})
        stored.write_result(result)
    assert trained_rates(store, cells) == {TOPK: 2.0}
