"""Which methods are the best that a budget buys: a set, because images and seeds are samples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.aliases import Row
from analysis.statistics import holm
from analysis.tables import table

SPEED_UPS = (1.5, 2.0, 3.0)
"""Least speed-ups over the unreduced model."""
SAVED = (0.25, 0.5, 0.75)
"""Least shares of the unreduced model's GMACs that are saved."""
ALPHA = 0.05
BASELINE = "baseline"
CONTEST = ("difference", "low", "high", "p", "covers")
UNPAIRED = "shares no seed with {}"


class Budget(NamedTuple):
    """What candidates may cost."""

    by: str
    """`speed_up`, `gmacs` or `keep_rate`."""
    amount: float
    device: str | None = None


class _Pairs:
    """Differences of any two series, from the table `pairwise`."""

    def __init__(self, pairwise: pd.DataFrame) -> None:
        self._rows: dict[tuple[str, str], Row] = {
            (row["series_a"], row["series_b"]): row for row in _rows(pairwise)
        }

    def of(self, a: str, b: str) -> Row | None:
        """Return difference (A - B), low, high, p and covers; None where they share no seed."""
        if row := self._rows.get((a, b)):
            return {name: row[name] for name in CONTEST}
        if row := self._rows.get((b, a)):
            turned = {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
            return turned | {name: row[name] for name in ("p", "covers")}
        return None


def budgets_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the table `budgets` of a study's `results`, `seeds`, `pairwise` and `speed`, if any.

    Each method takes part in a budget with the series that costs most and still meets it.
    """
    candidates = _candidates(tables)
    pairs = _Pairs(tables["pairwise"])
    rows: list[Row] = []
    for _, setting in candidates.groupby(["dataset", "capacity", "blocks"], sort=False):
        devices = [name for name in setting.columns if name.startswith("speed_up on ")]
        baselines = _rows(setting[setting["family"] == BASELINE])
        reduced = setting[setting["family"] != BASELINE]
        for budget in _budgets(reduced, [name.removeprefix("speed_up on ") for name in devices]):
            rows += _best(budget, _that_meet(budget, reduced), baselines[:1], pairs)
    return table("budgets", rows)


def _candidates(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row a series with all that budgets need, measured speeds beside."""
    seeds = tables["seeds"]
    own = seeds[(seeds["eval_keep_rate"] == seeds["keep_rate"]) & seeds["accuracy_mean"].notna()]
    blocks = [" ".join(map(str, stages)) for stages in own["stages"]]
    found = own.assign(blocks=blocks)
    base = found[found["family"] == BASELINE].drop_duplicates(["dataset", "capacity"])
    whole = base.set_index(["dataset", "capacity"])["gmacs_mean"]
    of_baseline = [whole.get(key, np.nan) for key in zip(found["dataset"], found["capacity"],
                                                         strict=True)]  # fmt: skip
    found = found.assign(gmacs_saved=1 - found["gmacs_mean"] / np.array(of_baseline, dtype=float))
    return found.merge(_speeds(tables), on="series", how="left")


def _speeds(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return each series' speed-up and memory on each device, at the largest batch measured."""
    speed = tables.get("speed")
    if speed is None or speed.empty:
        return pd.DataFrame({"series": pd.Series(dtype="string")})
    series = tables["results"].drop_duplicates("cell_id").set_index("cell_id")["series"]
    own = speed[speed["eval_keep_rate"] == speed["keep_rate"]]
    largest = own.groupby(["cell_id", "device"])["batch_size"].transform("max")
    rows = own[own["batch_size"] == largest]
    # The cells may have no results yet: their series is missing, and still a string.
    rows = rows.assign(series=rows["cell_id"].map(series).astype("string"))
    found = rows[rows["main"]].groupby("series")[["speed_up", "peak_memory_mb"]].mean()
    for device, of_device in rows.groupby("device", sort=False):
        means = of_device.groupby("series")[["speed_up", "peak_memory_mb"]].mean()
        found = found.join(means.add_suffix(f" on {device}"), how="outer")
    return found.reset_index()


def _budgets(reduced: pd.DataFrame, devices: Sequence[str]) -> Iterator[Budget]:
    for device in devices:
        if reduced[f"speed_up on {device}"].notna().any():
            yield from (Budget("speed_up", least, device) for least in SPEED_UPS)
    yield from (Budget("gmacs", least) for least in SAVED)
    yield from (Budget("keep_rate", rate) for rate in sorted(reduced["keep_rate"].unique()))


def _that_meet(budget: Budget, reduced: pd.DataFrame) -> list[Row]:
    """Return a candidate a method: the one that meets the budget by least."""
    column = {"speed_up": f"speed_up on {budget.device}", "gmacs": "gmacs_saved"}
    if budget.by == "keep_rate":
        meeting = reduced[reduced["keep_rate"] == budget.amount]
        return _rows(meeting.drop_duplicates("method"))
    saving = reduced[column[budget.by]]
    least_first = reduced.loc[saving[saving >= budget.amount].sort_values().index]
    return _rows(least_first.drop_duplicates("method").sort_index())


def _best(
    budget: Budget, candidates: Sequence[Row], baselines: Sequence[Row], pairs: _Pairs
) -> Iterator[Row]:
    """Yield a row a candidate: what it loses, and whether it can be told from the best one."""
    if not candidates:
        return
    best = max(candidates, key=lambda row: row["accuracy_mean"])
    contests = {
        row["series"]: pairs.of(row["series"], best["series"])
        for row in candidates
        if row is not best
    }
    known = {series: contest for series, contest in contests.items() if contest}
    adjusted = dict(zip(known, holm(np.array([c["p"] for c in known.values()])), strict=True))
    for row in candidates:
        contest = known.get(row["series"])
        p_holm = adjusted.get(row["series"], np.nan)
        missing = [best["method"]] if row is not best and contest is None else []
        lost: Row = {}
        for baseline in baselines:
            found = pairs.of(row["series"], baseline["series"])
            lost = found or {}
            missing += [] if found else [baseline["method"]]
        yield {
            **_identity(budget, row),
            **{name: lost.get(name) for name in ("difference", "low", "high", "covers")},
            "behind": best["accuracy_mean"] - row["accuracy_mean"],
            "p": contest["p"] if contest else None,
            "p_holm": p_holm,
            "is_best": row is best,
            # What is not compared cannot be told from the best either.
            "in_best_set": not p_holm <= ALPHA,
            "note": UNPAIRED.format(" and ".join(missing)) if missing else None,
        }


def _identity(budget: Budget, row: Row) -> Row:
    where = f" on {budget.device}" if budget.device else ""
    return {
        **{name: row[name] for name in ("dataset", "capacity", "stages", "series", "method")},
        **{name: row[name] for name in ("family", "schedule", "keep_rate")},
        **{name: row[name] for name in ("accuracy_low", "accuracy_high")},
        "by": budget.by,
        "device": budget.device,
        "budget": budget.amount,
        "accuracy": row["accuracy_mean"],
        "gmacs": row["gmacs_mean"],
        "gmacs_saved": row["gmacs_saved"],
        "speed_up": row.get(f"speed_up{where}"),
        "peak_memory_mb": row.get(f"peak_memory_mb{where}"),
        "seeds": row["n"],
    }


def _rows(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
