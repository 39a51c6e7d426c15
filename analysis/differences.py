"""How much the accuracies of two cells differ, on the same images, with intervals and tests."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.aliases import Row
from analysis.answers import Answers, check_same_images, unit_sums
from analysis.intervals import (
    Interval,
    Paired,
    bootstrap_p,
    mcnemar_mid_p,
    paired_interval,
    percentile_interval,
    sign_test,
)
from analysis.records import CellRecord, cells_at_rate
from analysis.seed_means import interval_around, uncertainty, values
from analysis.statistics import benjamini_hochberg
from analysis.tables import table

BASELINE = "baseline"
"""Family of the models without reduction."""
SAME_COST = 0.05
"""Cells whose GMACs differ by no more than this share of the larger cost the same."""
IMAGES, AND_TRAINING = "images", "images and training"
"""What an interval covers: other images of the kind; also other seeds of the training."""

Setting = tuple[Any, ...]
AnswersById = Mapping[str, Answers]


class Series(NamedTuple):
    """Cells of a setting that differ in nothing but the seed."""

    cells: tuple[CellRecord, ...]
    """Ascending by seed."""

    @property
    def first(self) -> CellRecord:
        """One of the cells, for what they share."""
        return self.cells[0]

    def at(self, seeds: Iterable[int]) -> list[CellRecord]:
        """Return the cells of some seeds, in their order."""
        by_seed = {cell.seed: cell for cell in self.cells}
        return [by_seed[seed] for seed in seeds]

    @property
    def gmacs(self) -> float:
        """Mean 10^9 multiply-accumulates an image, NaN where it is not known."""
        return float(np.mean([cell.metrics.get("gmacs") or np.nan for cell in self.cells]))


def settings(records: Sequence[CellRecord]) -> list[list[CellRecord]]:
    """Divide cells into those alike in dataset, capacity and blocks."""
    groups: dict[Setting, list[CellRecord]] = {}
    for record in records:
        groups.setdefault((record.dataset, record.capacity, record.stages), []).append(record)
    return list(groups.values())


def difference_rows(records: Sequence[CellRecord], answers: AnswersById) -> list[Row]:
    """Return what a setting adds to `differences`.

    At every keep rate every cell with reduction is compared with the baselines, and every two
    methods are, seed by seed and then over all seeds that both have, from two on.

    Args:
        records: Evaluated cells of one setting.
        answers: Theirs, by cell id.

    Raises:
        ValueError: The cells were not evaluated on the same images.
    """
    rows = []
    for rate in sorted({cell.keep_rate for cell in records if cell.family != BASELINE}):
        meeting = cells_at_rate(records, rate)
        shared: Row = {"dataset": records[0].dataset, "capacity": records[0].capacity}
        shared["keep_rate"] = rate
        for seed in sorted({cell.seed for cell in meeting}):
            cells = [cell for cell in meeting if cell.seed == seed]
            rows += _adjusted(shared | {"seed": seed} | row for row in cell_rows(cells, answers))
        found = _over_seeds(all_series(meeting), answers)
        rows += _adjusted(shared | row for row in found)
    return rows


def differences_table(records: Sequence[CellRecord], answers: AnswersById) -> pd.DataFrame:
    """Return the table `differences` of evaluated cells, see `difference_rows`."""
    found = (difference_rows(cells, answers) for cells in settings(records))
    return table("differences", (row for rows in found for row in rows))


def pairwise_rows(records: Sequence[CellRecord], answers: AnswersById) -> list[Row]:
    """Return what a setting adds to `pairwise`: every two series, whatever their keep rates.

    Over all seeds that both have; of one seed alone where they share no more. The q values are
    over the pairs of two methods that really cost the same.

    Args:
        records: Evaluated cells of one setting.
        answers: Theirs, by cell id.

    Raises:
        ValueError: The cells were not evaluated on the same images.
    """
    pairs = list(_contests(all_series(records), lambda series: series.first))
    rows = [_pairwise_row(a, b) for a, b in pairs]
    by_seeds: dict[tuple[int, ...], list[int]] = {}
    for place, (a, b) in enumerate(pairs):
        by_seeds.setdefault(_common_seeds(a, b), []).append(place)
    for seeds, places in by_seeds.items():
        for place, found in zip(places, _compared([pairs[p] for p in places], seeds, answers),
                                strict=True):  # fmt: skip
            rows[place] |= found
    rows = [row for row in rows if "difference" in row]
    _adjusted(row for row in rows if row["same_cost"])
    return rows


def pairwise_table(records: Sequence[CellRecord], answers: AnswersById) -> pd.DataFrame:
    """Return the table `pairwise` of evaluated cells, see `pairwise_rows`."""
    found = (pairwise_rows(cells, answers) for cells in settings(records))
    return table("pairwise", (row for rows in found for row in rows))


def all_series(records: Iterable[CellRecord]) -> list[Series]:
    """Group cells that differ in nothing but the seed, in the order of the first of each."""
    groups: dict[Setting, list[CellRecord]] = {}
    for cell in records:
        groups.setdefault((cell.method, cell.keep_rate, cell.series), []).append(cell)
    return [
        Series(tuple({cell.seed: cell for cell in sorted(group, key=_seed)}.values()))
        for group in groups.values()
    ]


def cell_rows(cells: Sequence[CellRecord], answers: AnswersById) -> list[Row]:
    """Compare cells of one seed: with the baselines, and every two methods.

    Returns:
        Columns of `differences` but for those that all rows share, and `q`.
    """
    pairs = list(_contests(cells, lambda cell: cell))
    found = _Compared(cells, answers).pairs(pairs)
    named = [_names(a, b) | {"cell_a": a.cell_id, "cell_b": b.cell_id} for a, b in pairs]
    return [names | row for names, row in zip(named, found, strict=True)]


def _over_seeds(series: Sequence[Series], answers: AnswersById) -> Iterator[Row]:
    for a, b in _contests(series, lambda each: each.first):
        seeds = _common_seeds(a, b)
        if len(seeds) > 1:
            yield _names(a.first, b.first) | mean_difference(a.at(seeds), b.at(seeds), answers)


def _compared(
    pairs: Sequence[tuple[Series, Series]], seeds: Sequence[int], answers: AnswersById
) -> list[Row]:
    """Compare pairs of series on the seeds that they have in common."""
    if not seeds:
        return [{} for _ in pairs]
    at_seeds = [(a.at(seeds), b.at(seeds)) for a, b in pairs]
    if len(seeds) > 1:
        return [mean_difference(a, b, answers) for a, b in at_seeds]
    firsts = [(a[0], b[0]) for a, b in at_seeds]
    cells = list({cell.cell_id: cell for pair in firsts for cell in pair}.values())
    return _Compared(cells, answers).pairs(firsts)


def mean_difference(a: Sequence[CellRecord], b: Sequence[CellRecord], answers: AnswersById) -> Row:
    """Compare the means over seeds of two series, given by their cells of the same seeds.

    See `analysis.seed_means` for how seeds and images add up.
    """
    in_a, in_b = ([answers[cell.cell_id] for cell in cells] for cells in (a, b))
    check_same_images([*in_a, *in_b])
    difference, of = float(values(in_a, in_b).mean()), uncertainty(in_a, in_b)
    low, high = interval_around(difference, of)
    return {
        "n": len(in_a[0].image),
        "difference": difference,
        "low": low,
        "high": high,
        "p": of.p(difference),
        "covers": AND_TRAINING,
    }


@dataclass(frozen=True)
class _Compared:
    """Cells that were evaluated on the same images, to be compared in any pairs."""

    cells: Sequence[CellRecord]
    answers: AnswersById

    @cached_property
    def _of_cells(self) -> list[Answers]:
        found = [self.answers[cell.cell_id] for cell in self.cells]
        check_same_images(found)
        return found

    def pairs(self, pairs: Sequence[tuple[CellRecord, CellRecord]]) -> list[Row]:
        """Return n, b, c, difference, interval, p value and what that covers of each pair."""
        if not pairs:
            return []
        places = {cell.cell_id: place for place, cell in enumerate(self.cells)}
        first, second = (
            np.array([places[pair[side].cell_id] for pair in pairs]) for side in (0, 1)
        )
        resampled = self._of_cells[0].right is None
        found = (self._scores if resampled else self._shares)(first, second)
        shared = {"n": len(self._of_cells[0].image), "covers": IMAGES}
        columns = [column.tolist() for column in found.values()]
        return [shared | dict(zip(found, row, strict=True)) for row in zip(*columns, strict=True)]

    def _shares(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> dict[str, np.ndarray]:
        right = np.stack([of.hits for of in self._of_cells]).astype(np.float32)
        # Counts of images are exact in float32 up to 2^24.
        both = (right @ right.T)[first, second].astype(np.int64)
        counts = right.sum(axis=1, dtype=np.float64).astype(np.int64)
        b, c = counts[first] - both, counts[second] - both
        net, discordant = (count.astype(np.float64) for count in (b - c, b + c))
        found = {"b": b, "c": c, "difference": 100 * net / right.shape[1]}
        if not self._of_cells[0].has_units:
            ones = np.ones(right.shape[1])
            paired = Paired(net, discordant, net, discordant)
            return found | _ends(paired_interval(paired, ones)) | {"p": mcnemar_mid_p(b, c)}
        sums, sizes = unit_sums(self._of_cells)
        gram, with_size = sums @ sums.T, sums @ sizes
        square = np.diag(gram)
        paired = Paired(
            net,
            square[first] + square[second] - 2 * gram[first, second],
            with_size[first] - with_size[second],
            discordant,
        )
        p = sign_test(sums, first, second)
        return found | _ends(paired_interval(paired, sizes)) | {"p": p}

    def _scores(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> dict[str, np.ndarray]:
        score = np.array([of.accuracy for of in self._of_cells])
        ends, p = [], []
        for a, b in zip(first, second, strict=True):
            drawn = self._of_cells[a].draws - self._of_cells[b].draws
            ends.append(percentile_interval(drawn))
            p.append(bootstrap_p(drawn))
        low, high = np.array(ends).T
        found = {"difference": score[first] - score[second], "low": low, "high": high}
        return found | {"p": np.array(p)}


def _contests(each: Sequence[Any], cell_of: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what is compared: a method with every baseline, B, and every two methods once."""
    baselines = [one for one in each if cell_of(one).family == BASELINE]
    reduced = [one for one in each if cell_of(one).family != BASELINE]
    yield from ((a, b) for a in reduced for b in baselines)
    yield from (pair for pair in combinations(reduced, 2) if _differ(*map(cell_of, pair)))


def _differ(a: CellRecord, b: CellRecord) -> bool:
    return a.method != b.method


def _pairwise_row(a: Series, b: Series) -> Row:
    row: Row = {"dataset": a.first.dataset, "capacity": a.first.capacity}
    seeds = _common_seeds(a, b)
    for side, series in (("a", a), ("b", b)):
        cell = series.first
        row |= {f"method_{side}": cell.method, f"keep_rate_{side}": cell.keep_rate}
        row[f"series_{side}"] = cell.series
        row |= {f"gmacs_{side}": series.gmacs}
        if len(seeds) == 1:
            row[f"cell_{side}"] = series.at(seeds)[0].cell_id
    least, most = sorted((row["gmacs_a"], row["gmacs_b"]))
    # Not true where one is not known.
    return row | {"same_cost": bool(most - least <= SAME_COST * most), "seeds": len(seeds)}


def _common_seeds(a: Series, b: Series) -> tuple[int, ...]:
    return tuple(sorted({cell.seed for cell in a.cells} & {cell.seed for cell in b.cells}))


def _names(a: CellRecord, b: CellRecord) -> Row:
    return {"method_a": a.method, "method_b": b.method}


def _adjusted(rows: Iterable[Row]) -> list[Row]:
    """Add the q values over all of some rows."""
    rows = list(rows)
    for row, q in zip(rows, benjamini_hochberg(np.array([r["p"] for r in rows])), strict=True):
        row["q"] = float(q)
    return rows


def _ends(interval: Interval) -> dict[str, np.ndarray]:
    return {"low": 100 * interval.low, "high": 100 * interval.high}


def _seed(cell: CellRecord) -> int:
    return cell.seed
