"""How the report divides the cells of a study over its panels."""

from collections.abc import Iterator, Sequence
from math import isfinite, nan
from typing import Any

import pandas as pd

from analysis.records import CellRecord, cells_at_rate, rate_in_words
from analysis.report.style import BASELINE

Key = tuple[str, ...]
"""What a panel or a view is of, in words: one word an axis, empty where the axis does not apply."""

SETTING = ("Dataset", "Capacity", "Blocks")
"""Axes of a setting: what cells share that are shown together."""
AT_RATE = (*SETTING, "Keep rate")


def title(key: Key) -> str:
    """Return a key as one text."""
    return " · ".join(filter(None, key))


def evaluated(records: Sequence[CellRecord]) -> list[CellRecord]:
    """Return the cells whose accuracy is a number."""
    return [record for record in records if isfinite(record.metrics.get("accuracy", nan))]


def by_setting(records: Sequence[CellRecord]) -> dict[Key, list[CellRecord]]:
    """Group cells by dataset, capacity and, if the study varies them, reduction blocks."""
    several = len({record.stages for record in records}) > 1
    groups: dict[Key, list[CellRecord]] = {}
    for record in records:
        blocks = f"blocks {', '.join(map(str, record.stages))}" if several else ""
        groups.setdefault((record.dataset, record.capacity, blocks), []).append(record)
    return groups


def at_each_rate(
    records: Sequence[CellRecord], rows: pd.DataFrame
) -> Iterator[tuple[Key, pd.DataFrame]]:
    """Yield each setting and keep rate, with a pair table's rows of the cells that meet there."""
    for setting, cells in by_setting(records).items():
        for rate in rates_of([cell for cell in cells if cell.family != BASELINE]):
            ids = {record.cell_id for record in cells_at_rate(cells, rate)}
            inside = rows["cell_a"].isin(ids) & rows["cell_b"].isin(ids)
            yield (*setting, rate_in_words(cells, rate)), rows[inside]


def group(records: Sequence[CellRecord], field: str) -> dict[Any, list[CellRecord]]:
    """Group cells by one of their fields, in the order in which its values appear."""
    groups: dict[Any, list[CellRecord]] = {}
    for record in records:
        groups.setdefault(getattr(record, field), []).append(record)
    return groups


def rates_of(records: Sequence[CellRecord]) -> list[float]:
    """Keep rates of the cells, ascending."""
    return sorted({record.keep_rate for record in records})


def images_used(records: Sequence[CellRecord]) -> str:
    """Say on how many images the cells of each dataset were evaluated."""
    counts = {
        dataset: sorted({r.metrics["images"] for r in cells if "images" in r.metrics})
        for dataset, cells in group(records, "dataset").items()
    }
    named = [f"{', '.join(map(str, n))} ({dataset})" for dataset, n in counts.items() if n]
    return "; ".join(named) or "not recorded"
