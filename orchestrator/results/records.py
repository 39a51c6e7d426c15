"""Cells of the store as the analysis sees them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from analysis.records import CellRecord
from orchestrator.storage.store import CellState, StoredCell
from reduction import METHODS, has_fixed_budget


def record_of(stored: StoredCell) -> CellRecord:
    """Return identity, state and metrics of a stored cell."""
    cell = stored.cell()
    state = stored.state()
    report = stored.last_report()
    whole = state is not CellState.DAMAGED
    result = (stored.result() if whole else None) or {}
    return CellRecord(
        cell_id=cell.id,
        dataset=cell.dataset,
        method=variant(cell.method, cell.options),
        family=METHODS[cell.method].family,
        capacity=cell.capacity,
        keep_rate=cell.keep_rate,
        stages=cell.reduction_loc,
        seed=cell.seed,
        meets_every_rate=not has_fixed_budget(cell.method, cell.options),
        state=str(state),
        metrics=(stored.evaluation() or {}) if state is CellState.DONE else {},
        error=stored.reason() if state is CellState.FAILED else None,
        series=cell.series,
        options=json.dumps(cell.options, sort_keys=True) if cell.options else None,
        imported=cell.imported,
        progress={
            "epoch": report.get("epoch", 0),
            "epochs": cell.recipe.epochs,
            "not_finite": len(stored.attempts()) if whole else None,
            "gentler": stored.gentler(),
            **{name: result.get(name) for name in ("train_seconds", "data_wait")},
        },
    )


def variant(method: str, options: Mapping[str, Any]) -> str:
    """Return what tells a method from others, such as `atc` or `atc linkage=single`.

    Options at their defaults are left out: they change nothing.
    """
    defaults = METHODS[method].options
    given = {name: value for name, value in options.items() if value != defaults.get(name)}
    words = (f"{name}={_plain(value)}" for name, value in sorted(given.items()))
    return " ".join([method, *words])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def records_at_all_rates(stored: StoredCell) -> list[CellRecord]:
    """Return the record of a stored cell, and one for every other keep rate it is evaluated at."""
    own = record_of(stored)
    metrics = {
        rate: folder.metrics() if own.state == CellState.DONE else None
        for rate, folder in stored.evaluations().items()
        if rate is not None
    }
    return [own, *(replace(own, eval_keep_rate=r, metrics=m or {}) for r, m in metrics.items())]
