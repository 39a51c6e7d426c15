"""What the analysis is told of a cell."""

import pytest

from orchestrator.results.records import record_of
from orchestrator.storage.store import Store
from trainables.cell import Cell
from trainables.recipe import Recipe


@pytest.mark.parametrize(
    ("method", "options", "meets_every_rate"),
    [
        ("topk", {}, False),
        ("ats", {}, True),
        ("deit", {}, True),
        ("l2", {}, False),
        ("l2", {"schedule": "matched", "min_radius": 2.0}, False),
        ("l2", {"schedule": "linear"}, True),
    ],
)
def test_options_decide_whether_a_cell_meets_every_rate(
    tmp_path, method, options, meets_every_rate
):
    cell = Cell(
        dataset="digits",
        method=method,
        capacity="tiny",
        keep_rate=0.5,
        reduction_loc=(3, 6, 9),
        options=options,
        recipe=Recipe(),
    )
    store = Store(tmp_path / "study")
    store.create({"name": "study"}, [cell])
    record = record_of(store.cell(cell.id))
    assert record.meets_every_rate is meets_every_rate
    assert record.progress["not_finite"] == 0
    assert (record.method, record.keep_rate, record.state) == (method, 0.5, "pending")
