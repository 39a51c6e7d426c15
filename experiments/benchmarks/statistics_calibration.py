"""Whether intervals cover, tests reject and best sets contain what they should, by simulation.

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.statistics_calibration

Studies are drawn whose true accuracies are known, and analysed by the functions that fill a
study's tables. An interval has to cover the truth in 92 to 98 % of the studies, a test may find a
difference that is not there in 7 % at most, and a set of the best has to contain the method that
is truly best in at least 95 %.

Writes `statistics_calibration.json` and `statistics_calibration.md` into the output folder and
prints the table.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis import mantel
from analysis.aliases import Row
from analysis.budgets import budgets_table
from analysis.differences import difference_rows, pairwise_table
from analysis.mantel import SIGNED, SIZE, Group, Setting
from analysis.ranking import ranks_table
from analysis.seed_means import mean_interval
from analysis.seeds import seeds_table
from analysis.tables import results_table, table
from experiments.benchmarks.made_answers import BASELINE, Cells, SeveralLabels, SingleLabel
from experiments.benchmarks.results import environment, line, option_parser, write

Outcomes = dict[str, bool]
"""What is measured -> whether it happened in one study."""

ALPHA = 0.05
COVERS, REJECTS, CONTAINS = "covers", "rejects", "contains the best"
TARGETS = {COVERS: (0.92, 0.98), REJECTS: (0.0, 0.07), CONTAINS: (0.95, 1.0)}
CONTEST = {"topk": 0.80, "tome": 0.79, "evit": 0.78, "ats": 0.77, "sit": 0.75, "l2": 0.70}
RATES = (0.25, 0.5, 0.7, 0.9)
METHODS = 8


@dataclass(frozen=True)
class Experiment:
    """Studies of one kind."""

    name: str
    once: Callable[[np.random.Generator], Outcomes]
    """Draws a study and says what happened."""
    studies: int
    """How many are drawn."""


@dataclass(frozen=True)
class Share:
    """How often something happened, beside what is allowed."""

    measured: str
    happened: int
    studies: int

    @property
    def value(self) -> float:
        """In [0, 1]."""
        return self.happened / self.studies

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and most that is allowed."""
        return next(b for kind, b in TARGETS.items() if self.measured.endswith(kind))

    def row(self) -> dict[str, object]:
        """Return a line of the table."""
        low, high = self.bounds
        allowed = f"{low} to {high}"
        if low == 0 or high == 1:
            allowed = f"at least {low}" if low else f"at most {high}"
        met = "" if low <= self.value <= high else "MISSED"
        return {"measured": self.measured, "value": f"{self.value:.3f}", "target": allowed,
                "studies": self.studies, "": met}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and analyse what the command line asks for."""
    parser = option_parser(__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many studies of each")
    parser.add_argument("--only", default="", help="only experiments whose name has this in it")
    options = parser.parse_args(arguments)
    rows: list[dict[str, object]] = []
    for experiment in EXPERIMENTS:
        if options.only not in experiment.name:
            continue
        studies = max(1, round(experiment.studies * options.scale))
        for share in run(replace(experiment, studies=studies)):
            print(line(share.row().values()), flush=True)
            rows.append(share.row())
    write(options.out, "statistics_calibration", rows, environment(options))


def run(experiment: Experiment) -> Iterator[Share]:
    """Draw an experiment's studies and yield the share of each outcome."""
    random = np.random.default_rng(zlib.crc32(experiment.name.encode()))
    found = [experiment.once(random) for _ in range(experiment.studies)]
    for name in found[0]:
        happened = sum(outcomes[name] for outcomes in found)
        yield Share(f"{experiment.name}: {name}", happened, len(found))


def of_cells(world: SingleLabel | SeveralLabels) -> Callable[[np.random.Generator], Outcomes]:
    """Return what happens to a cell and to a difference of two cells of one seed."""

    def once(random: np.random.Generator) -> Outcomes:
        cells = world.draw(random)
        first, second = cells.records[:2]
        low, high = cells.answers[first.cell_id].interval
        (row, *_) = difference_rows([first, second], cells.answers)
        return {
            f"interval of a cell {COVERS}": low <= cells.truth[first.method] <= high,
        } | _of_difference(row, cells)

    return once


def over_seeds(world: SingleLabel) -> Callable[[np.random.Generator], Outcomes]:
    """Return what happens to a mean over seeds and to the difference of two."""

    def once(random: np.random.Generator) -> Outcomes:
        cells = world.draw(random)
        rows = difference_rows(cells.records, cells.answers)
        row = next(row for row in rows if "seed" not in row)
        own = [c for c in cells.records if c.method == row["method_a"]]
        low, high = mean_interval([cells.answers[c.cell_id] for c in own])
        return {
            f"interval of a mean {COVERS}": low <= cells.truth[row["method_a"]] <= high,
        } | _of_difference(row, cells)

    return once


def _of_difference(row: Row, cells: Cells) -> Outcomes:
    """Return whether an interval covers, and whether a test rejects what is true."""
    difference = cells.truth[row["method_a"]] - cells.truth[row["method_b"]]
    found = {f"interval of a difference {COVERS}": row["low"] <= difference <= row["high"]}
    if difference == 0:
        found[f"test of a difference {REJECTS}"] = row["p"] <= ALPHA
    return found


def best_set(world: SingleLabel) -> Callable[[np.random.Generator], Outcomes]:
    """Return whether the set of the best at a keep rate contains the true best."""

    def once(random: np.random.Generator) -> Outcomes:
        cells = world.draw(random)
        results = results_table(cells.records, cells.answers)
        tables = {"results": results, "seeds": seeds_table(results, cells.answers)}
        tables["pairwise"] = pairwise_table(cells.records, cells.answers)
        budgets = budgets_table(tables)
        named = budgets[(budgets["by"] == "keep_rate") & budgets["in_best_set"]]["method"]
        reduced = {m: value for m, value in cells.truth.items() if m != BASELINE}
        return {f"set {CONTAINS}": max(reduced, key=lambda m: reduced[m]) in set(named)}

    return once


def ranks(datasets: int, favourites: float) -> Callable[[np.random.Generator], Outcomes]:
    """Return what the tests of ranks find where no method is better over all datasets.

    Args:
        datasets: How many.
        favourites: Standard deviation of what a method has on a dataset, at all of its rates,
            over that of a single accuracy.
    """

    def once(random: np.random.Generator) -> Outcomes:
        rows = [
            {"dataset": f"d{dataset}", "capacity": "tiny", "keep_rate": rate, "family": "pruning",
             "eval_keep_rate": rate, "method": f"m{method}", "meets_every_rate": False, "seed": 0,
             "accuracy": 70 + favourite + random.normal()}
            for dataset in range(datasets)
            for method, favourite in enumerate(random.normal(0, favourites, size=METHODS))
            for rate in RATES
        ]  # fmt: skip
        found = ranks_table(table("results", rows))
        pooled = found[found["dataset"].isna()]
        apart = np.ptp(pooled["average_rank"].to_numpy(dtype=float))
        return {
            f"Friedman's test {REJECTS}": bool(pooled["friedman_p"].iloc[0] <= ALPHA),
            f"Nemenyi's test {REJECTS}": bool(apart > pooled["critical_difference"].iloc[0]),
        }

    return once


def correlations(of_pairs: float) -> Callable[[np.random.Generator], Outcomes]:
    """Return what Mantel's test finds where the keep rate alone makes cells alike.

    Accuracies differ by rate and method; how alike two cells are depends on their rate, on noise
    and, over all rates, on the pair by itself.

    Args:
        of_pairs: Standard deviation of the latter over that of the noise.
    """
    first, second = np.triu_indices(METHODS, 1)

    def once(random: np.random.Generator) -> Outcomes:
        methods = random.normal(0, 2, size=METHODS)
        pairs = random.normal(0, of_pairs, size=len(first))
        settings = []
        for rate in RATES:
            accuracy = 70 + 10 * rate + methods + random.normal(0, 0.5, size=METHODS)
            alike = 10 * rate + pairs + random.normal(size=len(first))
            anchors = [_anchor(place, first, second, alike) for place in range(METHODS)]
            settings.append(Setting([f"m{n}" for n in range(METHODS)], accuracy, anchors))
        return {
            f"Mantel's test of {outcome.words} {REJECTS}": bool(
                mantel.test(settings, outcome)["spearman"].p[0] <= ALPHA
            )
            for outcome in (SIGNED, SIZE)
        }

    return once


def _anchor(place: int, first: np.ndarray, second: np.ndarray, alike: np.ndarray) -> Group:
    """Return a cell with all of its partners."""
    with_it = (first == place) | (second == place)
    partners = np.where(first == place, second, first)[with_it]
    return Group(np.full(len(partners), place), partners, alike[with_it][:, None])


def rates_alone(random: np.random.Generator) -> Outcomes:
    """Return what Mantel's test finds among a method's rates where accuracies are drawn at random.

    How alike two cells are follows from the distance of their rates.
    """
    rates = np.linspace(0.1, 0.9, 6)
    first, second = np.triu_indices(len(rates), 1)
    alike = -np.abs(rates[first] - rates[second]) + random.normal(0, 0.05, size=len(first))
    group = Group(first, second, alike[:, None])
    setting = Setting(list(rates), random.normal(size=len(rates)), [group])
    return {
        f"Mantel's test of {outcome.words} {REJECTS}": bool(
            mantel.test([setting], outcome)["spearman"].p[0] <= ALPHA
        )
        for outcome in (SIGNED, SIZE)
    }


def _contest(methods: Mapping[str, float], **others: Any) -> SingleLabel:
    return SingleLabel(accuracy={BASELINE: 0.82, **methods}, **others)


TIED = dict.fromkeys(CONTEST, 0.8)
EXPERIMENTS = (
    *(
        Experiment(f"top-1, {n} images, {share:.0%}", of_cells(SingleLabel(
            accuracy={"topk": share, "tome": share}, images=n)), 4000)
        for n, share in ((100, 0.9), (500, 0.8), (5000, 0.95))
    ),
    Experiment("top-1, 500 images, methods differ by 5 %", of_cells(SingleLabel(
        accuracy={"topk": 0.8, "tome": 0.75})), 4000),
    *(
        Experiment(f"top-1, {units} units of 600 images", of_cells(SingleLabel(
            accuracy={"topk": 0.8, "tome": 0.8}, images=600, units=units)), 1000)
        for units in (30, 100)
    ),
    Experiment("top-1, 60 units of 600 images, methods differ by 5 %", of_cells(SingleLabel(
        accuracy={"topk": 0.8, "tome": 0.75}, images=600, units=60)), 1000),
    Experiment("mAP, 1000 images", of_cells(SeveralLabels(
        strength={"topk": 1.5, "tome": 1.5})), 1000),
    Experiment("mAP, 1000 images, methods differ", of_cells(SeveralLabels(
        strength={"topk": 2.0, "tome": 1.5})), 1000),
    Experiment("mAP, 200 units of 1000 images", of_cells(SeveralLabels(
        strength={"topk": 1.5, "tome": 1.5}, units=200)), 1000),
    *(
        Experiment(f"{seeds} seeds, training noise {noise}", over_seeds(SingleLabel(
            accuracy={"topk": 0.8, "tome": 0.8}, seeds=seeds, training=noise)), 2000)
        for seeds in (2, 3, 5)
        for noise in (0.0, 0.05, 0.2)
    ),
    Experiment("3 seeds, 60 units of 600 images", over_seeds(SingleLabel(
        accuracy={"topk": 0.8, "tome": 0.8}, seeds=3, training=0.05, units=60, images=600)), 2000),
    Experiment("6 methods, the best ahead by 1 %", best_set(_contest(CONTEST)), 1000),
    Experiment("6 methods, the same", best_set(_contest(TIED)), 1000),
    Experiment("6 methods, 3 seeds", best_set(_contest(CONTEST, seeds=3, training=0.05)), 500),
    Experiment("6 methods, 60 units", best_set(_contest(CONTEST, units=60, images=600)), 300),
    *(
        Experiment(f"ranks, {datasets} datasets, favourites {favourites}",
                   ranks(datasets, favourites), 500)
        for datasets in (5, 10)
        for favourites in (0.0, 3.0)
    ),
    Experiment("alike by the rate alone", correlations(0.0), 300),
    Experiment("alike by the rate and the pair", correlations(1.0), 300),
    Experiment("a method's rates", rates_alone, 300),
)  # fmt: skip


if __name__ == "__main__":
    main()
