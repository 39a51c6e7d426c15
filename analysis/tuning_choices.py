"""What trials of a tuning tell: the best values of each method, and the order of methods."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analysis.aliases import Row

SETTING = ["recipe", "dataset", "capacity"]
"""Columns of the table `tuning`: methods are compared that agree in these."""


@dataclass(frozen=True)
class Orders:
    """The order of methods at values of their own, and at the best ones that all share."""

    own: tuple[str, ...]
    """Methods, the most accurate first, each at its chosen values."""
    shared: tuple[str, ...]
    """The same at the shared values."""
    values: Row
    """The shared values: the best mean accuracy over methods."""
    stopped: bool
    """Whether a trial was stopped early, so that accuracies are after different lengths."""

    @property
    def same(self) -> bool:
        """Whether both orders agree."""
        return self.own == self.shared


def orders(trials: pd.DataFrame) -> Orders | None:
    """Return both orders of the methods of a setting, computed from its trials alone.

    Equal accuracies are told apart by the smaller loss.

    Args:
        trials: Rows of the table `tuning`, of one recipe, dataset and capacity.

    Returns:
        None while there are fewer than two methods, a method has no choice, or there are no values
        with which all methods are trained.
    """
    known = trials.dropna(subset=["accuracy"])
    chosen = known[known["chosen"]]
    methods = set(trials["method"])
    if len(methods) < 2 or set(chosen["method"]) < methods:
        return None
    by_values = known.groupby("values", sort=False)
    shared_by_all = [
        (each["accuracy"].mean(), -each["loss"].mean(), str(values))
        for values, each in by_values
        if set(each["method"]) == methods
    ]
    if not shared_by_all:
        return None
    _, _, best = max(shared_by_all, key=lambda each: each[:2])
    shared = known[known["values"] == best]
    stopped = bool(known["stopped"].any())
    return Orders(_order(chosen), _order(shared), json.loads(best), stopped)


def by_setting(tuning: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Yield each recipe, dataset and capacity with its rows, in the table's order."""
    for setting, rows in tuning.groupby(SETTING, sort=False):
        recipe, dataset, capacity = map(str, setting)
        yield (recipe, dataset, capacity), rows


def main_field(trials: pd.DataFrame) -> str | None:
    """Return the field of which most numbers were tried, None if none has two."""
    tried: dict[str, set[float]] = {}
    for values in trials["values"].unique():
        for name, value in json.loads(values).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                tried.setdefault(name, set()).add(value)
    several = {name: len(values) for name, values in tried.items() if len(values) > 1}
    return max(several, key=lambda name: several[name]) if several else None


def along(trials: pd.DataFrame, field: str) -> pd.DataFrame:
    """Return for each method and value of a field the best trial over all other fields.

    The rows have the number as `x`, ascending within a method.
    """
    known = trials.dropna(subset=["accuracy"])
    known = known.assign(x=[json.loads(values)[field] for values in known["values"]])
    best_first = known.sort_values(
        ["chosen", "accuracy", "loss"], ascending=[False, False, True], kind="stable"
    )
    return best_first.drop_duplicates(["method", "x"]).sort_values(["method", "x"], kind="stable")


def _order(rows: pd.DataFrame) -> tuple[str, ...]:
    means = rows.groupby("method")[["accuracy", "loss"]].mean()
    ordered = means.sort_values(["accuracy", "loss"], ascending=[False, True], kind="stable")
    return tuple(ordered.index)
