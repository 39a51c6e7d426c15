"""The page of a study as large as the published one stays usable."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from analysis.comparisons import identity, pairs
from analysis.report import render
from analysis.tables import MAP_COMPARISONS, table

DATASETS = ("imagenet", "nabirds", "coco", "nuswide")
CAPACITIES = ("tiny", "small", "base")
METHODS = 13
RATES = (0.25, 0.5, 0.7, 0.9)
SIMILARITIES = {
    "heatmaps": ["jsd", "emd", "kl_ab", "kl_ba", "pcc", "scc", "sim"],
    "pruning": ["iou_mean"],
}
PLACES = {"heatmaps": [{}], "pruning": [{"stage": stage, "images": 50000} for stage in (3, 6, 9)]}


@pytest.fixture(scope="module")
def records(report_records):
    """All cells of four datasets, three capacities and 13 methods at four rates, and a baseline."""
    (done, *_) = (r for r in report_records if r.state == "done" and r.family == "pruning")
    (free, *_) = (r for r in report_records if r.state == "done" and r.family == "baseline")
    axes = product(DATASETS, CAPACITIES, range(METHODS), RATES)
    cells = [
        replace(done, dataset=dataset, capacity=capacity, method=f"method{number}", keep_rate=rate)
        for dataset, capacity, number, rate in axes
    ]
    cells += [
        replace(free, dataset=dataset, capacity=capacity)
        for dataset, capacity in product(DATASETS, CAPACITIES)
    ]
    return [replace(cell, cell_id=f"cell {number}") for number, cell in enumerate(cells)]


def made_up(name, records, comparisons):
    """Rows of a pair table; the numbers are made up."""
    random = np.random.default_rng(0)
    measures = SIMILARITIES[name]
    rows = (
        identity(a, b, comparison)
        | {"dataset_b": b.dataset}
        | place
        | dict(zip(measures, random.random(len(measures)).tolist(), strict=True))
        for comparison in comparisons
        for a, b in pairs(records, comparison)
        for place in PLACES[name]
    )
    return table(name, rows)


def test_a_large_page_is_small_enough_and_folds_what_is_not_asked_for(records):
    assert len(records) == 636
    tables = {
        "heatmaps": made_up("heatmaps", records, MAP_COMPARISONS),
        "pruning": made_up("pruning", records, ("models",)),
    }
    page = render("large", records, tables, {}).page
    assert len(page) < 12e6
    drawn = page.count('class="chart"')
    folded = sum(
        view.count('class="chart"')
        for view in re.split('<div class="view"', page)[1:]
        if view[: view.index(">")].endswith(" hidden")
    )
    assert drawn > 3000
    assert drawn - folded < 120
