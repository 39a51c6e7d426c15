"""What the analysis is told of a cell."""

import pytest

from analysis.comparisons import pairs
from orchestrator.results.cell_records import record_of
from orchestrator.store.store import Store
from trainables.cell.cell import Cell
from trainables.recipe import Recipe


def records(folder, *cells):
    """Return the records of cells that differ in method, keep rate and options."""
    store = Store(folder / "study")
    made = [
        Cell(
            dataset="digits",
            method=method,
            capacity="tiny",
            keep_rate=rate,
            reduction_loc=(3, 6, 9),
            options=options,
            recipe=Recipe(),
        )
        for method, rate, options in cells
    ]
    store.create({"name": "study"}, made)
    return [record_of(store.cell(cell.id)) for cell in made]


@pytest.mark.parametrize(
    ("method", "options", "meets_every_rate"),
    [
        ("topk", {}, False),
        ("ats", {}, True),
        ("deit", {}, True),
        ("l2", {}, False),
        ("l2", {"schedule": "matched", "min_radius": 2.0}, False),
        ("l2", {"schedule": "linear", "min_radius": 1.0}, True),
    ],
)
def test_options_decide_whether_a_cell_meets_every_rate(
    tmp_path, method, options, meets_every_rate
):
    (record,) = records(tmp_path, (method, 0.5, options))
    assert record.meets_every_rate is meets_every_rate
    assert record.progress["not_finite"] == 0
    assert (record.keep_rate, record.state) == (0.5, "pending")


def test_variants_of_a_method_are_methods_of_their_own(tmp_path):
    single = {"linkage": "single"}
    cells = records(
        tmp_path,
        *(("atc", 0.5, {}), ("atc", 0.5, single), ("atc", 0.25, {"linkage": "average"})),
        *(("atc", 0.25, single), ("kmedoids", 0.5, {"equal_weight": True, "iters": 5})),
    )
    names = [cell.method for cell in cells]
    assert names == [*(["atc", "atc linkage=single"] * 2), "kmedoids equal_weight=true iters=5"]
    assert {cell.family for cell in cells} == {"merging"}

    def pairs_by(comparison):
        return [tuple(map(cells.index, pair)) for pair in pairs(cells, comparison)]

    assert pairs_by("rates") == [(0, 2), (1, 3)]
    assert pairs_by("models") == [(0, 1), (0, 4), (1, 4), (2, 3)]
