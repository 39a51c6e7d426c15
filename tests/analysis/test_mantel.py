"""Correlations over pairs of cells against scipy, loops over orders, and what chance does."""

from itertools import combinations, permutations

import numpy as np
import pytest
from scipy import stats

from analysis import mantel
from analysis.mantel import OUTCOMES, SIGNED, SIZE, Group, Setting, coefficients

SCIPYS = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}


def group_of(cells, similarity):
    first, second = np.array(list(combinations(range(cells), 2))).T
    return Group(first, second, similarity)


def made(cells, seed=0, columns=1, decimals=9):
    random = np.random.default_rng(seed)
    pairs = cells * (cells - 1) // 2
    group = group_of(cells, random.normal(size=(pairs, columns)).round(decimals))
    return Setting(list(range(cells)), random.normal(size=cells).round(decimals), [group])


@pytest.mark.parametrize("decimals", [9, 0])
@pytest.mark.parametrize("name", SCIPYS)
def test_coefficients_are_scipys_with_and_without_ties(name, decimals):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(12, 3)).round(decimals), random.normal(size=(2, 12)).round(decimals)
    expected = [[SCIPYS[name](column, row).statistic for column in x.T] for row in y]
    assert coefficients(x, y)[name] == pytest.approx(np.array(expected), abs=1e-12)


def test_pairs_without_a_similarity_do_not_count():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(9, 3)), random.normal(size=9)
    x[2, 0] = x[3:, 1] = np.nan
    x[2, 1] = np.nan
    found = coefficients(x, y[None])["spearman"][0]
    without = np.delete(np.arange(9), 2)
    assert found[0] == pytest.approx(stats.spearmanr(x[without, 0], y[without]).statistic)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(stats.spearmanr(x[:, 2], y).statistic)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("name", SCIPYS)
def test_p_counts_all_orders_of_few_cells(name, outcome):
    setting = made(5, seed=3)
    (group,) = setting.groups
    every = []
    for order in permutations(range(5)):
        accuracy = setting.accuracy[list(order)]
        y = outcome.of(accuracy[group.first], accuracy[group.second])
        every.append(SCIPYS[name](group.similarity[:, 0], y).statistic)
    found = mantel.test([setting], outcome)[name]
    assert found.coefficient[0] == pytest.approx(every[0])
    tails = ((sign * np.subtract(every, every[0]) >= -1e-9).mean() for sign in (-1, 1))
    assert found.p[0] == pytest.approx(min(1, 2 * min(tails)))


def test_drawn_orders_approach_all_of_them(monkeypatch):
    setting = made(6, seed=1)
    exact = mantel.test([setting], SIZE)["spearman"].p[0]
    monkeypatch.setattr(mantel, "EXACT_UP_TO", 100)
    drawn = mantel.test([setting], SIZE)["spearman"].p[0]
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact / mantel.DRAWS))


def test_the_same_names_move_together_in_all_settings():
    """The same setting many times is no more evidence than once."""
    setting = made(6, seed=8)
    once, often = (mantel.test([setting] * n, SIGNED)["kendall"] for n in (1, 20))
    assert often.p == pytest.approx(once.p)
    apart = [setting._replace(names=[(n, name) for name in setting.names]) for n in range(20)]
    assert mantel.test(apart, SIGNED)["kendall"].p < once.p


def test_the_interval_is_that_of_a_loop_over_resampled_cells():
    setting = made(7, seed=2)
    (group,) = setting.groups
    found = mantel.test([setting], SIGNED)
    random = np.random.default_rng(7)
    drawn = random.multinomial(7, np.full(7, 1 / 7), size=1000)
    y = setting.accuracy[group.first] - setting.accuracy[group.second]
    for name, correlate in SCIPYS.items():
        estimates = []
        for counts in drawn:
            times = counts[group.first] * counts[group.second]
            a, b = np.repeat(group.similarity[:, 0], times), np.repeat(y, times)
            if len(a) and np.ptp(a) and np.ptp(b):
                estimates.append(correlate(a, b).statistic)
        expected = np.quantile(estimates, [0.025, 0.975])
        ends = [found[name].low[0], found[name].high[0]]
        assert ends == pytest.approx(expected.tolist(), abs=1e-9)


def test_there_is_no_interval_of_three_cells():
    found = mantel.test([made(3)], SIGNED)["spearman"]
    assert np.isnan([found.low[0], found.high[0]]).all()
    assert found.p[0] >= 2 / 6


def test_likeness_that_depends_on_the_rate_alone_is_no_finding():
    """Accuracy falls with the rate, and the nearer two rates the more alike their cells."""
    small = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        rates = np.array([0.25, 0.5, 0.7, 0.9])
        first, second = np.array(list(combinations(range(4), 2))).T
        alike = 1 - np.abs(rates[first] - rates[second]) + random.normal(0, 0.05, 6)
        accuracy = 80 + 5 * rates + random.normal(0, 0.2, 4)
        setting = Setting(list(range(4)), accuracy, [Group(first, second, alike[:, None])])
        small += mantel.test([setting], SIGNED)["spearman"].p[0] < 0.05
    assert small <= 7
