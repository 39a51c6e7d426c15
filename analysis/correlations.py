"""Whether how alike two cells are goes with how much their performance differs."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis import mantel
from analysis.aliases import Row
from analysis.mantel import COEFFICIENTS, FEWEST_PAIRS, OUTCOMES, Group, MantelTest, Setting
from analysis.statistics import benjamini_hochberg
from analysis.tables import SCHEMAS, table

ANCHOR = ("cell_a", "keep_rate", "dataset", "method_a", "family_a", "capacity_a", "seed")
"""What pairs of methods share that are correlated with each other: cell A and where it meets."""
SETTING = ("dataset", "capacity_a", "keep_rate", "seed")
"""Where methods meet."""
GROUPED_BY: Mapping[str, tuple[str, ...]] = {
    "rates": ("dataset", "method_a", "family_a", "capacity_a"),
    "capacity": ("dataset", "method_a", "family_a"),
}
"""Comparison -> what the pairs of a group have in common: a method and capacity, over pairs of
rates; a method, over pairs of capacities. Seeds of a pair are averaged: as points of their own
they would count the same two settings several times."""
VARIED = {"rates": "keep_rate", "capacity": "capacity"}
"""Comparison -> what the cells of a pair differ in."""
PLACES = {"pruning": "stage", "merging": "stage", "features": "block"}
"""Table of similarities -> its column of the block they are taken at."""
OF_AN_ANCHOR = "tested over all cells A together"


def correlation_parts(
    results: pd.DataFrame, tables: Mapping[str, pd.DataFrame]
) -> list[tuple[str, pd.DataFrame]]:
    """Return what `correlation_rows` takes, apart by table and comparison.

    Args:
        results: The study's `results`.
        tables: Its `pruning`, `merging` and `features`.
    """
    cells = results[results["eval_keep_rate"] == results["keep_rate"]].set_index("cell_id")
    return [
        (name, part)
        for name in PLACES
        for _, part in _with_cells(tables[name], cells).groupby("comparison", sort=False)
    ]


def correlation_rows(name: str, pairs: pd.DataFrame) -> list[Row]:
    """Return the rows of a part, q values aside: permuting takes seconds in a large study.

    Every similarity is correlated with the difference of accuracies, A - B, and with its size.
    For `models` a cell A with its partners has a coefficient without a p value, and there is one
    test for each similarity and block, of the mean over the cells A.

    Args:
        name: The table.
        pairs: Its rows of one comparison, from `correlation_parts`.
    """
    known = pairs.dropna(subset=["accuracy_a", "accuracy_b"])
    if known.empty:
        return []
    comparison = known["comparison"].iloc[0]
    made = _of_methods(known, name) if comparison == "models" else _of_groups(known, name)
    return [{"comparison": comparison, "table": name} | row for row in made]


def correlations_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the table `correlations` of the rows of all parts.

    A row is a group of pairs, a block and a similarity. The q values of each coefficient are over
    the whole table (Benjamini-Hochberg).
    """
    for coefficient in COEFFICIENTS:
        p = np.array([row.get(f"{coefficient}_p", np.nan) for row in rows], dtype=np.float64)
        for row, q in zip(rows, benjamini_hochberg(p), strict=True):
            row[f"{coefficient}_q"] = q
    return table("correlations", rows)


def similarities(name: str) -> list[str]:
    """Return the columns of a table that say how alike two cells are, without their spreads."""
    schema = SCHEMAS[name]
    measured = list(schema)[list(schema).index(PLACES[name]) + 1 :]
    left_out = ("_std", "_chance")
    return [c for c in measured if schema[c] == "float64" and not c.endswith(left_out)]


def _with_cells(pairs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Add the accuracies and the rate at which two cells meet."""
    a, b = (cells.reindex(pairs[side]).reset_index(drop=True) for side in ("cell_a", "cell_b"))
    rate_a, rate_b = a["keep_rate"], b["keep_rate"]
    lower = np.minimum(rate_a, rate_b)
    # A cell without a fixed budget meets its partner at the partner's rate.
    free_a, free_b = (side["meets_every_rate"].eq(True) for side in (a, b))
    meets_at = np.where(free_a & free_b, lower, np.where(free_a, rate_b, rate_a))
    return pairs.reset_index(drop=True).assign(
        accuracy_a=a["accuracy"], accuracy_b=b["accuracy"], keep_rate=meets_at
    )


def _of_groups(pairs: pd.DataFrame, name: str) -> Iterator[Row]:
    """Yield rows of pairs of one method's rates or capacities, each group with its test."""
    comparison = str(pairs["comparison"].iloc[0])
    columns, varied = GROUPED_BY[comparison], VARIED[comparison]
    for key, rows in pairs.groupby(list(columns), sort=False):
        common = {c.removesuffix("_a"): v for c, v in zip(columns, key, strict=True)}
        wide = _wide(rows, name, [f"{varied}_a", f"{varied}_b"])
        ids = pd.concat(
            [
                rows[[f"{varied}_{side}", f"accuracy_{side}"]].set_axis(
                    ["name", "accuracy"], axis=1
                )
                for side in "ab"
            ]
        )
        setting = _setting(ids.groupby("name")["accuracy"].mean(), [wide])
        yield from (common | row for row in _tested([setting], _columns(wide), {}))


def _of_methods(pairs: pd.DataFrame, name: str) -> Iterator[Row]:
    """Yield rows of every cell A with its partners, then of the tests over all of them."""
    for key, rows in pairs.groupby(list(ANCHOR), sort=False):
        common = {c.removesuffix("_a"): v for c, v in zip(ANCHOR, key, strict=True)}
        common["cell_id"] = common.pop("cell")
        wide = _wide(rows, name, ["cell_a", "cell_b"])
        setting = _setting(_accuracies(rows, "cell"), [wide])
        yield from (common | row for row in _described(setting, _columns(wide)))
    settings: list[tuple[pd.Series, list[pd.DataFrame]]] = []
    columns: list[tuple[int, str]] = []
    for _, rows in _once_a_method(pairs).groupby(list(SETTING), sort=False):
        anchors = [
            _wide(of, name, ["method_a", "method_b"])
            for _, of in rows.groupby("method_a", sort=False)
        ]
        columns += [column for column in _columns(anchors[0]) if column not in columns]
        settings.append((_accuracies(rows, "method"), anchors))
    if settings:
        datasets = pairs["dataset"].unique()
        common = {"dataset": datasets[0]} if len(datasets) == 1 else {}
        aligned = [
            _setting(accuracy, [wide.reindex(columns=_index(columns)) for wide in anchors])
            for accuracy, anchors in settings
        ]
        yield from _tested(aligned, columns, common)


def _once_a_method(pairs: pd.DataFrame) -> pd.DataFrame:
    """Leave one cell of each method where methods meet: that of the rate, if there is one."""
    kept = pairs
    for side in "ab":
        place = [*SETTING, f"method_{side}"]
        own = (pairs[f"keep_rate_{side}"] == pairs["keep_rate"]).groupby(
            [pairs[c] for c in place]
        ).transform("any")  # fmt: skip
        first = pairs.groupby(place)[f"cell_{side}"].transform("first")
        fits = np.where(own, pairs[f"keep_rate_{side}"] == pairs["keep_rate"],
                        pairs[f"cell_{side}"] == first)  # fmt: skip
        kept = kept[fits[kept.index]]
    return kept


def _accuracies(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return the accuracy of each cell, or of each method where they meet, by its name."""
    sides = [
        rows.set_index(f"{name}_{side}")[f"accuracy_{side}"].rename_axis("name") for side in "ab"
    ]
    both = pd.concat(sides)
    return both[~both.index.duplicated()].sort_index()


def _wide(rows: pd.DataFrame, name: str, pair: Sequence[str]) -> pd.DataFrame:
    """Return similarities, a row a pair and a column a block and similarity; mean over seeds."""
    found = rows.groupby([*pair, PLACES[name]], sort=False)[similarities(name)].mean()
    blocks = found.index.get_level_values(PLACES[name]).unique()
    by_block = {block: found.xs(block, level=PLACES[name]) for block in sorted(blocks)}
    return pd.concat(by_block, axis=1)


def _columns(wide: pd.DataFrame) -> list[tuple[int, str]]:
    return [(int(column[0]), str(column[1])) for column in wide.columns]


def _index(columns: Sequence[tuple[int, str]]) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples(columns)


def _setting(accuracy: pd.Series, groups: Sequence[pd.DataFrame]) -> Setting:
    accuracy = accuracy.sort_index()
    places = {cell: place for place, cell in enumerate(accuracy.index)}
    made = []
    for wide in groups:
        first, second = (np.array([places[pair[side]] for pair in wide.index]) for side in (0, 1))
        made.append(Group(first, second, wide.to_numpy(dtype=np.float64)))
    return Setting(list(accuracy.index), accuracy.to_numpy(dtype=np.float64), made)


def _described(setting: Setting, columns: Sequence[tuple[int, str]]) -> Iterator[Row]:
    """Yield rows of one group without a test."""
    (group,) = setting.groups
    a, b = setting.accuracy[group.first], setting.accuracy[group.second]
    for outcome in OUTCOMES:
        y = outcome.of(a, b).round(mantel.DECIMALS)
        found = mantel.coefficients(group.similarity, y[None])
        for place, named in enumerate(_named(columns, [group], outcome)):
            values = {name: float(found[name][0, place]) for name in COEFFICIENTS}
            note = _undefined(group, y, place, named) if np.isnan(values["spearman"]) else None
            yield named | values | {"note": note or OF_AN_ANCHOR}


def _tested(
    settings: Sequence[Setting], columns: Sequence[tuple[int, str]], common: Row
) -> Iterator[Row]:
    groups = [group for setting in settings for group in setting.groups]
    for outcome in OUTCOMES:
        found = mantel.test(settings, outcome)
        for place, named in enumerate(_named(columns, groups, outcome)):
            row = common | named
            for name, of in found.items():
                row |= {name: float(of.coefficient[place]), f"{name}_p": float(of.p[place])}
                row |= {f"{name}_low": of.low[place], f"{name}_high": of.high[place]}
            if np.isnan(row["spearman"]):
                setting, group = settings[0], groups[0]
                y = outcome.of(setting.accuracy[group.first], setting.accuracy[group.second])
                row["note"] = _undefined(group, y.round(mantel.DECIMALS), place, named)
            elif np.isnan(row["spearman_low"]):
                row["note"] = f"no interval below {mantel.FEWEST_FOR_INTERVAL} pairs"
            yield row


def _named(
    columns: Sequence[tuple[int, str]], groups: Sequence[Group], outcome: MantelTest
) -> Iterator[Row]:
    known = [~np.isnan(group.similarity) for group in groups]
    for place, (block, similarity) in enumerate(columns):
        counts = [int(of_group[:, place].sum()) for of_group in known]
        yield {
            "block": block,
            "similarity": similarity,
            "outcome": outcome.words,
            "groups": sum(count >= FEWEST_PAIRS for count in counts),
            "pairs": sum(counts),
        }


def _undefined(group: Group, y: np.ndarray, place: int, row: Row) -> str:
    """Say why a group has no correlation."""
    x = group.similarity[:, place]
    known = ~np.isnan(x)
    if known.sum() < FEWEST_PAIRS:
        return f"{known.sum()} pairs, but at least {FEWEST_PAIRS} are needed"
    rows = ((row["similarity"], x[known]), ("difference of accuracies", y[known]))
    return f"{' and '.join(name for name, values in rows if np.ptp(values) == 0)} constant"
