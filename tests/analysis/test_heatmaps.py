import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.heatmaps import METRICS, compare_maps, emd, jsd, pcc, sim

PUBLISHED = {
    "kl_ab": "KL_12",
    "kl_ba": "KL_21",
    "jsd": "textbook_JS_not_reference",
    "jsd_paper": "JS",
    "pcc": "PCC",
    "scc": "SCC",
    "sim": "SIM",
}


@pytest.mark.parametrize("pair", ["aa", "ab", "ac", "ad", "ba", "bc"])
def test_equal_the_published_study(units, pair):
    arrays, numbers = units
    expected = numbers["heatmaps"][pair]
    found = compare_maps(*(arrays[f"heatmaps/{name}"] for name in pair))
    for metric, name in PUBLISHED.items():
        assert found[metric] == pytest.approx(expected[name], abs=1e-9)
    assert found["emd"] == pytest.approx(expected["EMD_exact"], abs=1e-7)
    assert found["emd"] == pytest.approx(expected["EMD_pinned"], rel=1e-3)
    assert found["note"] is None


def test_every_pair_of_depth_maps_equals_the_published_study(study_arrays, study_numbers):
    for row in study_numbers["heatmaps"]:
        a, b = (study_arrays[f"{row[side]}/depth_mean_map"] for side in "AB")
        found = compare_maps(a, b)
        for metric in ("kl_ab", "kl_ba", "jsd_paper", "pcc", "scc", "sim"):
            assert found[metric] == pytest.approx(row[PUBLISHED[metric]], abs=1e-9)
        assert found["emd"] == pytest.approx(row["EMD_exact"], abs=1e-7)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_properties(seed):
    a, b = np.random.default_rng(seed).uniform(0.01, 1, (2, 4, 6))
    ab, ba = compare_maps(a, b), compare_maps(b, a)
    for metric in METRICS[2:]:
        assert ab[metric] == pytest.approx(ba[metric], abs=1e-9)
        assert compare_maps(a * 7, b)[metric] == pytest.approx(ab[metric], abs=1e-9)
    assert (ab["kl_ab"], ab["kl_ba"]) == (ba["kl_ba"], ba["kl_ab"])
    assert 0 <= ab["jsd"] <= 1
    assert 0 <= ab["sim"] <= 1
    assert -1 <= ab["pcc"] <= 1
    assert ab["emd"] <= np.hypot(3, 5)
    same = compare_maps(a, a)
    expected = dict.fromkeys(METRICS, 0.0) | {"pcc": 1.0, "scc": 1.0, "sim": 1.0, "note": None}
    assert same == pytest.approx(expected, abs=1e-9)


def test_moving_all_mass_costs_the_distance_also_off_square():
    a, b = np.zeros((2, 3, 5))
    a[0, 0], b[2, 4] = 1, 1
    assert emd(a, b) == pytest.approx(np.hypot(2, 4))
    assert jsd(a, b) == pytest.approx(1)
    found = compare_maps(a, b)
    assert (found["kl_ab"], found["jsd_paper"]) == (np.inf, np.inf)
    assert sim(a, b) == 0


def test_constant_map_is_noted():
    found = compare_maps(np.full((3, 3), 12), np.arange(9).reshape(3, 3))
    assert found["note"] == "constant map A"
    assert [name for name in METRICS if np.isnan(found[name])] == ["pcc", "scc", "sim"]
    both = compare_maps(np.zeros((3, 3)), np.zeros((3, 3)))
    assert both["note"] == "constant map A and B"
    assert np.isnan([both[name] for name in METRICS]).all()


def test_pearson_equals_numpy():
    a, b = np.random.default_rng(0).random((2, 5, 5))
    assert pcc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 3)), r"shapes \(2, 2\) and \(2, 3\), but must have the same"),
        (np.ones((2, 2)), -np.ones((2, 2)), "but must be non-negative"),
    ],
)
def test_maps_that_do_not_fit_are_an_error(a, b, message):
    with pytest.raises(ValueError, match=message):
        compare_maps(a, b)
