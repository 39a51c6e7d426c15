"""The table `speed`, of measurements beside no other work, and what `results` has of it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.aliases import Row
from analysis.records import CellRecord
from analysis.tables import MEASURED, cell_columns, table

Facts = Mapping[str, Any]
"""A JSON object as the store keeps it."""
JOINED = ("speed_up", "images_per_second", "peak_memory_mb")
"""Columns of `results` at the largest batch size; `latency_ms` is of single images."""
BY = ["cell_id", "eval_keep_rate"]


@dataclass(frozen=True)
class MeasuredCell:
    """What was measured of a cell on one device at one batch size."""

    record: CellRecord
    measurement: str
    """Key that cells which share the measurement have in common."""
    device: Facts
    """`device`, `device_type`, `torch` and `timm`."""
    batch_size: int
    found: Facts
    """As the store keeps it: quartiles as [low, median, high], latencies as [p50, p95] in ms."""


def speed_table(measured: Sequence[MeasuredCell]) -> pd.DataFrame:
    """Make the table `speed`, a row for each."""
    main = main_device(measured)
    return table("speed", (_row(each, main) for each in measured))


def main_device(measured: Iterable[MeasuredCell]) -> str | None:
    """Return the device that `results` is about, None where nothing was measured.

    That is one on which the study itself was measured, if any; of these the one with the most
    cells, and of several a GPU rather than a CPU.
    """
    cells: Counter[tuple[bool, str, str]] = Counter()
    for each in measured:
        kind = str(each.device["device_type"])
        cells[bool(each.found["by_study"]), kind, str(each.device["device"])] += 1
    if not cells:
        return None

    def worth(device: tuple[bool, str, str]) -> tuple[bool, int, bool]:
        by_study, kind, _ = device
        return by_study, cells[device], kind != "cpu"

    return max(sorted(cells), key=worth)[2]


def with_speed(results: pd.DataFrame, speed: pd.DataFrame) -> pd.DataFrame:
    """Return `results` with what `speed` says of the main device, in place of what it had.

    Speed-up, throughput and memory are those at the largest batch size that the table has, the
    latency that of single images; missing where a cell was not measured.
    """
    main = speed[speed["main"]]
    largest = main[main["batch_size"] == main["batch_size"].max()].set_index(BY)
    single = main[main["batch_size"] == 1].set_index(BY)
    columns = {name: largest[name] for name in JOINED} | {"latency_ms": single["latency_ms"]}
    indexed = results.set_index(BY)
    # An empty frame would take the rows of what it is assigned.
    found = {name: column.reindex(indexed.index) for name, column in columns.items()}
    joined = indexed.assign(**found).reset_index()
    return joined[list(results.columns)].astype(results.dtypes)


def measured_records(records: Iterable[CellRecord], results: pd.DataFrame) -> list[CellRecord]:
    """Return records whose metrics hold what `results` has of speed, and nothing else of it."""
    own = results[results["eval_keep_rate"] == results["keep_rate"]]
    known = own.set_index("cell_id")[list(MEASURED)].to_dict(orient="index")
    return [
        replace(record, metrics=_measured_metrics(record.metrics, known.get(record.cell_id, {})))
        for record in records
    ]


def _measured_metrics(metrics: Facts, found: Mapping[Any, float]) -> Row:
    others = {name: value for name, value in metrics.items() if name not in MEASURED}
    return others | {name: value for name, value in found.items() if pd.notna(value)}


def _row(each: MeasuredCell, main: str | None) -> Row:
    found, record = each.found, each.record
    rate = record.keep_rate if record.eval_keep_rate is None else record.eval_keep_rate
    tokens = found.get("tokens") or {}
    return {
        **found,
        **cell_columns(record),
        **each.device,
        "eval_keep_rate": rate,
        "measurement": each.measurement,
        "main": each.device["device"] == main,
        "batch_size": each.batch_size,
        **_quartiles(found, "host_images_per_second", "images_per_second", "speed_up"),
        **_latencies(found if each.batch_size == 1 else {}),
        "tokens": [tokens.get(str(block)) for block in record.stages] if tokens else None,
    }


def _quartiles(found: Facts, *names: str) -> Row:
    row: Row = {}
    for name in names:
        low, median, high = found.get(name, (None,) * 3)
        row |= {name: median, f"{name}_low": low, f"{name}_high": high}
    return row


def _latencies(found: Facts) -> Row:
    row: Row = {}
    for name in ("", "host_"):
        p50, p95 = found.get(f"{name}latency_ms", (None, None))
        row |= {f"{name}latency_ms": p50, f"{name}latency_p95_ms": p95}
    return row
