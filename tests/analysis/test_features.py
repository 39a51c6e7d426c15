import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import features
from analysis.features import (
    CHUNK,
    canonical_correlations,
    cka,
    mean_cca,
    mean_squared_cca,
    moments,
    own_moments,
    procrustes,
    pwcca,
)

PAIRS = ("AA", "AB", "AC", "AD", "BA", "CA")


def _moments(a, b, cuts=()):
    rows = np.split(np.arange(len(a)), cuts)
    return moments(own_moments(a), own_moments(b), zip(rows, rows, strict=True))


def _metrics(a, b):
    of = _moments(a, b)
    cca = canonical_correlations(of)
    return {
        "pwcca": pwcca(cca.rho, cca.weights_a),
        "mean_cca": mean_cca(cca.rho),
        "mean_sq_cca": mean_squared_cca(cca.rho),
        "cka": cka(of),
        "procrustes": procrustes(of),
    }


def _sample(seed, images=60, features=6):
    random = np.random.default_rng(seed)
    a = random.normal(size=(images, features)) * random.uniform(0.5, 2, features)
    b = a @ random.normal(size=(features, features)) + random.normal(size=(images, features))
    return a, b, np.linalg.qr(random.normal(size=(features, features)))[0]


@pytest.mark.parametrize("pair", PAIRS)
def test_equal_the_published_study(units, pair):
    arrays, numbers = units
    found = _metrics(*(arrays[f"features/{name}"].T.astype(np.float64) for name in pair))
    for metric, value in found.items():
        assert value == pytest.approx(numbers["features"][pair]["float64"][metric], abs=1e-9)


@pytest.mark.parametrize("pair", ["AB", "BA", "AC", "CA", "AD", "AA"])
def test_correlations_equal_the_published_study(units, pair):
    a, b = (units[0][f"features/{name}"].T.astype(np.float64) for name in pair)
    rho = canonical_correlations(_moments(a, b)).rho
    np.testing.assert_allclose(rho, units[0][f"features/rho_{pair}"], atol=1e-9)


def test_weights_from_b_are_those_of_the_exchanged_arguments(units):
    a, b = (units[0][f"features/{name}"].T for name in "AB")
    exchanged = canonical_correlations(_moments(b, a))
    found = canonical_correlations(_moments(a, b))
    # Products are of float32.
    np.testing.assert_allclose(found.weights_b, exchanged.weights_a, rtol=0, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_properties(seed):
    a, b, rotation = _sample(seed)
    found, moved = _metrics(a, b), _metrics(a @ rotation * 3 + 1, b)
    for metric in ("cka", "procrustes", "mean_cca", "mean_sq_cca"):
        assert moved[metric] == pytest.approx(found[metric], abs=1e-9)
        assert _metrics(b, a)[metric] == pytest.approx(found[metric], abs=1e-9)
    mapped = _metrics(a, b @ (rotation + 2 * np.eye(6)))
    for metric in ("pwcca", "mean_cca", "mean_sq_cca"):
        assert mapped[metric] == pytest.approx(found[metric], abs=1e-9)
        assert 0 <= found[metric] <= 1
    assert 0 <= found["cka"] <= 1
    assert 0 <= found["procrustes"] <= 2


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_equal_features_up_to_rotation_have_no_distance(seed):
    a, _, rotation = _sample(seed)
    found = _metrics(a, a @ rotation)
    expected = {"pwcca": 0, "mean_cca": 1, "mean_sq_cca": 1, "cka": 0, "procrustes": 0}
    assert found == pytest.approx(expected, abs=1e-9)


def test_directions_without_variance_count_as_nothing():
    a, b, _ = _sample(3)
    plain = _metrics(a, b)
    repeated = np.column_stack([a, a[:, 0], a @ np.ones(6), np.zeros(60)]).astype(np.float32)
    deficient = canonical_correlations(_moments(repeated, b))
    assert mean_cca(deficient.rho) == pytest.approx(plain["mean_cca"], abs=1e-5)
    both = canonical_correlations(_moments(repeated, repeated))
    np.testing.assert_allclose(both.rho, [1] * 6 + [0] * 3, atol=1e-6)
    assert pwcca(both.rho, both.weights_a) == pytest.approx(0, abs=1e-6)


def test_too_few_images_are_an_error():
    a, b, _ = _sample(0, images=6)
    message = r"^CCA was given 6 images, but must have more than 6 features$"
    with pytest.raises(ValueError, match=message):
        canonical_correlations(_moments(a, b))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((9, 2), 0.1), "the same for every image, but must vary"),
        (np.array([[1.0], [np.nan]]), "not finite, but must be numbers"),
        (np.array([[1.0], [np.inf]]), "not finite, but must be numbers"),
    ],
)
def test_features_that_say_nothing_are_an_error(bad, message):
    with pytest.raises(ValueError, match=message):
        own_moments(bad)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 59), max_size=4, unique=True))
def test_moments_do_not_depend_on_the_chunks(seed, cuts):
    a, b, _ = _sample(seed)
    # An offset a million times the spread: sums of squares alone would lose it.
    a, b = a + 1e6, b[:, :4] - 1e6
    centred = [values - values.mean(axis=0) for values in (a, b)]
    one, other = (values / np.linalg.norm(values) for values in centred)
    found = _moments(a, b, sorted(cuts))
    np.testing.assert_allclose(found.ab, one.T @ other, atol=1e-9)


def test_own_moments_are_those_of_all_images_at_once(monkeypatch):
    a, *_ = _sample(0)
    # An offset a million times the spread: sums of squares alone would lose it.
    a = np.column_stack([a + 1e6, a[:, 0]])
    monkeypatch.setattr(features, "CHUNK", 7)
    found = own_moments(a)
    centred = a - a.mean(axis=0)
    one = centred / np.linalg.norm(centred)
    assert found.spread == pytest.approx(np.linalg.norm(one.T @ one))
    np.testing.assert_allclose(found.root @ found.root, one.T @ one, atol=1e-9)
    np.testing.assert_allclose(found.whitened @ found.root, one, atol=1e-9)
    on_variance = found.whitened.T @ found.whitened
    np.testing.assert_allclose(on_variance @ on_variance, on_variance, atol=1e-8)
    assert np.trace(on_variance) == pytest.approx(6)


@pytest.mark.parametrize("pair", PAIRS)
def test_single_precision_changes_no_metric_by_a_millionth(units, pair):
    # Beside a direction of a ten-thousandth of the spread of the others.
    scale = np.logspace(0, -4, units[0]["features/A"].shape[0])
    sets = [units[0][f"features/{name}"].T for name in pair]
    sets = [a * scale if a.shape[1] == len(scale) else a for a in sets]
    exact = _metrics(*(a.astype(np.float32).astype(np.float64) for a in sets))
    assert _metrics(*(a.astype(np.float32) for a in sets)) == pytest.approx(exact, abs=1e-6)


def test_pairs_need_no_more_memory_than_a_few_chunks():
    a, b, _ = _sample(0, images=25 * CHUNK)
    whole, of_a, of_b = a.nbytes + b.nbytes, own_moments(a), own_moments(b)
    rows = np.split(np.arange(len(a)), range(CHUNK, len(a), CHUNK))
    tracemalloc.start()
    moments(of_a, of_b, zip(rows, rows, strict=True))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < whole / 5
