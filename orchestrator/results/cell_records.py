"""Converts cells of the store to records of the analysis."""

import json
from collections.abc import Mapping
from dataclasses import replace
from math import nan
from typing import Any

from analysis.records import CellRecord
from orchestrator.store.stored_cell import CellState, StoredCell
from reduction import METHODS, has_fixed_budget
from trainables.cell.json_records import ImportedRun, Metrics

LOST = "its weights were damaged and have to be imported again"


def record_of(stored: StoredCell) -> CellRecord:
    """Return identity, state and metrics of a stored cell."""
    cell = stored.cell()
    state = stored.state()
    report = stored.last_report()
    whole = state is not CellState.DAMAGED
    result = (stored.result() if whole else None) or {}
    run = stored.imported() if cell.imported else None
    metrics, note = _known(stored, state, run)
    return CellRecord(
        cell_id=cell.id,
        dataset=cell.dataset,
        method=variant(cell.method, cell.options),
        family=METHODS[cell.method].family,
        capacity=cell.capacity,
        keep_rate=metrics.get("keep_rate", nan) if cell.keep_rate is None else cell.keep_rate,
        schedule=cell.schedule,
        stages=cell.reduction_loc,
        seed=cell.seed,
        meets_every_rate=not has_fixed_budget(cell.method, cell.options),
        state=str(state),
        metrics=metrics,
        error=stored.reason() if state is CellState.FAILED else None,
        series=cell.series,
        options=json.dumps(cell.options, sort_keys=True) if cell.options else None,
        imported=cell.imported,
        note=note,
        progress={
            "epoch": report.get("epoch", 0) if run is None else None,
            "epochs": cell.recipe.epochs,
            "not_finite": len(stored.attempts()) if whole else None,
            "gentler": stored.gentler(),
            **{name: result.get(name) for name in ("train_seconds", "data_wait")},
            "imported_accuracy": run and run["max_accuracy"],
        },
    )


def variant(method: str, options: Mapping[str, object]) -> str:
    """Return the name of a method with its options, such as `atc` or `atc linkage=single`.

    Options at their defaults are left out.
    """
    defaults = METHODS[method].options
    given = {name: value for name, value in options.items() if value != defaults.get(name)}
    words = (f"{name}={_plain(value)}" for name, value in sorted(given.items()))
    return " ".join([method, *words])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _known(
    stored: StoredCell, state: CellState, run: ImportedRun | None
) -> tuple[Metrics, str | None]:
    """Return a cell's metrics, or those of its W&B run with a note, if there are no others."""
    if state is CellState.RECORDED and run is not None:
        metrics: Metrics = {"metric": run["metric"], "accuracy": run["max_accuracy"]}
        return metrics, f"accuracy as in W&B, not evaluated here: {run['missing'] or LOST}"
    return (stored.evaluation() if state is CellState.DONE else None) or Metrics(), None


def records_at_all_rates(stored: StoredCell) -> list[CellRecord]:
    """Return the record of a stored cell, and one for every other keep rate it is evaluated at."""
    own = record_of(stored)
    metrics = {
        rate: folder.metrics() if own.state == CellState.DONE else None
        for rate, folder in stored.evaluations().items()
        if rate is not None
    }
    return [own, *(replace(own, eval_keep_rate=r, metrics=m or {}) for r, m in metrics.items())]
