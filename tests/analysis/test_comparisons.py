import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from whole_tables import compare

from analysis.comparisons import measure, pairs
from analysis.features import CHUNK
from analysis.records import CellArtifacts, CellRecord

CELL = CellRecord(
    cell_id="", dataset="im", method="topk", family="pruning", capacity="small",
    keep_rate=0.5, stages=(3, 6), seed=0, state="done",
)  # fmt: skip


def _cells(*changes):
    return [replace(CELL, cell_id=str(place), **change) for place, change in enumerate(changes)]


def _ids(found):
    return [(a.cell_id, b.cell_id) for a, b in found]


def _compared(cells, names, comparison, table):
    """(cell A, cell B, stage or block) -> row, over all pairs of the named cells."""
    records = [cells[name].record for name in names]
    rows = {}
    for a, b in pairs(records, comparison):
        for row in compare(cells[a.cell_id], cells[b.cell_id], comparison, [table])[table]:
            rows[row["cell_a"], row["cell_b"], row.get("stage", row.get("block"))] = row
    return rows


def _check(rows, expected, columns, tolerance):
    """Every published number is among the rows, and every row is published (one way round)."""
    published = set()
    for entry in expected:
        for ours, theirs in columns.items():
            for stage, value in entry[theirs].items():
                row = rows[entry["A"], entry["B"], int(stage)]
                assert row[ours] == pytest.approx(value, abs=tolerance)
                published.add(frozenset((entry["A"], entry["B"])))
    assert {frozenset(key[:2]) for key in rows} == published


PRUNING = {
    f"{name}_{kind}": f"{name}_{kind}" for name in ("iou", "ioa") for kind in ("mean", "std")
}
MERGING = {
    f"{ours}_{kind}": f"{theirs}_{kind}"
    for ours, theirs in [
        ("homogeneity", "homogeneity"),
        ("completeness", "completeness"),
        ("v_measure", "nmi"),
    ]
    for kind in ("mean", "std")
}
FEATURES = {
    "pwcca": "pwcca",
    "mean_cca": "mean_cca",
    "mean_squared_cca": "mean_sq_cca",
    "cka": "cka",
    "procrustes": "procrustes",
}
TABLES = [("models", "methods"), ("rates", "rates"), ("capacity", "capacities")]


@pytest.mark.parametrize(("comparison", "published"), TABLES)
@pytest.mark.parametrize(("table", "columns"), [("pruning", PRUNING), ("merging", MERGING)])
def test_patterns_equal_the_published_study(
    study_cells, study_numbers, table, columns, comparison, published
):
    expected = study_numbers[f"{table}_across_{published}"]
    names = {entry[side] for entry in expected for side in "AB"}
    if comparison != "capacity":
        names |= {name for name in study_cells if name.startswith("im-") and "-small" in name}
    columns = {ours: theirs for ours, theirs in columns.items() if theirs in expected[0]}
    rows = _compared(study_cells, sorted(names), comparison, table)
    _check(rows, expected, columns, 1e-9)


@pytest.mark.parametrize(("comparison", "published"), TABLES)
def test_features_equal_the_published_study(feature_cells, study_numbers, comparison, published):
    expected = study_numbers[f"features_across_{published}"]
    rows = _compared(feature_cells, list(feature_cells), comparison, "features")
    _check(rows, expected, FEATURES, 1e-4)


def test_order_of_the_published_pairs(study_cells, study_numbers):
    for comparison, published in TABLES[1:]:
        expected = study_numbers[f"pruning_across_{published}"]
        names = {entry[side] for entry in expected for side in "AB"}
        found = pairs([study_cells[name].record for name in sorted(names)], comparison)
        ordered = {(entry["A"], entry["B"]) for entry in expected}
        assert ordered == set(_ids(found))


def test_models_differ_in_method_alone_but_for_free_rates():
    records = _cells(
        {},
        {"method": "evit"},
        {"method": "evit", "keep_rate": 0.25},
        {"method": "ats", "keep_rate": 0.25, "meets_every_rate": True},
        {"method": "deit", "keep_rate": 1.0, "meets_every_rate": True},
        {"method": "evit", "seed": 1},
        {"method": "evit", "stages": (3,)},
        {"method": "evit", "dataset": "nab"},
        {"method": "evit", "capacity": "tiny"},
    )
    together = [("0", "1"), ("0", "3"), ("0", "4"), ("1", "3"), ("1", "4")]
    assert _ids(pairs(records, "models")) == [*together, ("2", "3"), ("2", "4"), ("3", "4")]


def test_a_is_the_higher_rate_and_the_larger_capacity():
    rates = _cells({"keep_rate": 0.25}, {"keep_rate": 0.7}, {"keep_rate": 0.5, "seed": 1})
    assert _ids(pairs(rates, "rates")) == [("1", "0")]
    known = _cells({"capacity": "tiny"}, {"capacity": "base"}, {"capacity": "small"})
    assert _ids(pairs(known, "capacity")) == [("1", "0"), ("2", "0"), ("1", "2")]
    counted = _cells(
        {"capacity": "x", "metrics": {"parameters": 5}},
        {"capacity": "tiny", "metrics": {"parameters": 9}},
        {"capacity": "a"},
    )
    assert _ids(pairs(counted, "capacity")) == [("1", "0"), ("2", "0"), ("2", "1")]


def test_datasets_pair_alike_cells():
    records = _cells({}, {"dataset": "nab"}, {"dataset": "nab", "keep_rate": 0.7})
    assert _ids(pairs(records, "datasets")) == [("0", "1")]


def test_unknown_comparison_is_an_error():
    message = "^comparison is 'seeds', but must be one of models, rates, capacity, datasets$"
    with pytest.raises(ValueError, match=message):
        pairs([], "seeds")


@pytest.fixture
def artifacts():
    """Two cells on 40 images, B's in another order; kept patches, groups and features."""
    random = np.random.default_rng(0)
    base = random.normal(size=(40, 5)).astype(np.float32)
    kept = random.random((40, 16)).argsort(axis=1).astype(np.uint8)
    group = random.integers(0, 6, (40, 16)).astype(np.uint8)

    def cell(name, order, kept_count):
        patterns = {
            "image": np.arange(40)[order], "grid": np.array([4, 4]), "depth": np.array(12),
            "kept_3": kept[order, :kept_count], "group_3": group[order],
        }  # fmt: skip
        record = replace(CELL, cell_id=name, method=name)
        return CellArtifacts(record, patterns, {"cls_3": base[order], "cls_11": base[order]})

    return cell("a", np.arange(40), 8), cell("b", random.permutation(40), 4)


def test_images_are_matched_by_their_ids(artifacts):
    tables = compare(*artifacts, "models")
    ab, ba = tables["pruning"]
    assert (ab["cell_a"], ab["cell_b"], ab["stage"], ab["images"]) == ("a", "b", 3, 40)
    assert (ab["iou_mean"], ab["ioa_mean"], ab["ioa_std"]) == (0.5, 1, 0)
    assert (ba["cell_a"], ba["iou_mean"], ba["ioa_mean"]) == ("b", 0.5, 0.5)
    assert [row["v_measure_mean"] for row in tables["merging"]] == pytest.approx([1, 1])
    assert [row["block"] for row in tables["features"]] == [3, 3, 11, 11]
    for row in tables["features"]:
        zero = pytest.approx(0, abs=1e-6)  # In single precision.
        assert (row["pwcca"], row["cka"], row["note"]) == (zero, zero, None)


def test_only_the_kinds_asked_for_and_the_common_stages(artifacts):
    a, b = artifacts
    b = replace(b, patterns={**b.patterns, "kept_6": b.patterns["kept_3"]})
    tables = compare(a, b, "rates", ["pruning"])
    assert list(tables) == ["pruning"]
    assert [row["stage"] for row in tables["pruning"]] == [3]
    without = {name: array for name, array in a.patterns.items() if name != "kept_3"}
    assert compare(replace(a, patterns=without), b, "rates", ["pruning"]) == {"pruning": []}


def test_reference_classes_are_those_of_the_lower_rate(artifacts):
    a, b = artifacts
    b = replace(b, patterns={**b.patterns, "group_3": b.patterns["group_3"] // 3})
    (by_rate,) = compare(a, b, "rates", ["merging"])["merging"]
    by_model, _ = compare(a, b, "models", ["merging"])["merging"]
    assert by_rate["homogeneity_mean"] == by_model["completeness_mean"] == pytest.approx(1)
    assert by_rate["completeness_mean"] == by_model["homogeneity_mean"] < 0.9


def test_what_cannot_be_computed_is_missing_with_a_reason(artifacts):
    a, b = artifacts
    wide = {"cls_3": np.random.default_rng(1).normal(size=(40, 50))}
    (row,) = compare(replace(a, features=wide), b, "rates", ["features"])["features"]
    assert row["note"] == "CCA was given 40 images, but must have more than 50 features"
    assert np.isnan([row["pwcca"], row["mean_cca"], row["mean_squared_cca"]]).all()
    assert 0 < row["cka"] < 1
    flat = {"cls_3": np.ones((40, 5))}
    (row,) = compare(a, replace(b, features=flat), "rates", ["features"])["features"]
    assert row["note"] == "features are the same for every image, but must vary"
    assert np.isnan([row["cka"], row["procrustes"]]).all()


def test_other_images_or_grids_are_an_error(artifacts):
    a, b = artifacts
    other = replace(b, patterns={**b.patterns, "image": np.arange(40) + 1})
    with pytest.raises(
        ValueError, match=r"^a and b were given, but must have been evaluated on the same images$"
    ):
        compare(a, other, "models")
    other = replace(b, patterns={**b.patterns, "grid": np.array([2, 8])})
    with pytest.raises(ValueError, match=r"have patch grids \(4, 4\) and \(2, 8\), but must"):
        compare(a, other, "models")


def test_nothing_depends_on_the_chunks(artifacts, monkeypatch):
    a, b = artifacts
    whole = compare(a, b, "models")
    monkeypatch.setattr("analysis.features.CHUNK", 7)
    for kind, rows in compare(a, b, "models").items():
        for row, expected in zip(rows, whole[kind], strict=True):
            assert row == pytest.approx(expected, abs=1e-6)


def test_no_more_memory_is_needed_than_for_a_few_chunks():
    random, images = np.random.default_rng(0), 8 * CHUNK
    patterns = {"image": np.arange(images)[::-1], "grid": np.array([8, 8]), "depth": np.array(12)}
    patterns["kept_3"] = random.integers(0, 64, (images, 32)).astype(np.uint8)
    patterns["group_3"] = random.integers(0, 32, (images, 64)).astype(np.uint8)
    cls = {"cls_3": random.normal(size=(images, 32)).astype(np.float32)}
    cell = CellArtifacts(CELL, patterns, cls).with_moments()
    tracemalloc.start()
    measure(cell, cell)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * images * 8  # One array of every patch in 64 bits.
