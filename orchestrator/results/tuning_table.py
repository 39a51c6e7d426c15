"""The table `tuning`: what the trials of a study have tried, reached and chosen."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.results.cell_records import record_of
from orchestrator.store.searches import (
    Candidate,
    Choice,
    Results,
    Search,
    choose,
    read_searches,
    stored_results,
)
from orchestrator.store.store import Store
from trainables.storage.files import DamagedFileError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.aliases import Row


def tuning_tables(store: Store) -> "dict[str, pd.DataFrame]":
    """Return the table `tuning`, a row a trial; nothing for a study that tunes nothing."""
    from analysis.tables import table  # Imports pandas.

    rows = [row for search in read_searches(store) for row in _rows(store, search)]
    return {"tuning": table("tuning", rows)} if rows else {}


def _rows(store: Store, search: Search) -> "Iterator[Row]":
    results = stored_results(store, search)
    choice = choose(search, results)
    for candidate in search.candidates:
        for trial in candidate.trials:
            try:
                yield _row(store, search, candidate, trial, choice, results)
            except DamagedFileError:
                continue  # Its record; the next launch writes it again.


def _row(
    store: Store,
    search: Search,
    candidate: Candidate,
    trial: str,
    choice: Choice | None,
    results: Results,
) -> "Row":
    from analysis.tables import cell_columns

    record, result = record_of(store.cell(trial)), results.get(trial, {})
    chosen = choice is not None and choice.values == candidate.values
    return {
        **cell_columns(record),
        "recipe": search.recipe,
        "values": json.dumps(candidate.values),
        "state": record.state,
        **{name: result.get(name) for name in ("metric", "accuracy", "loss", "epoch")},
        "epochs": record.progress["epochs"],
        "stopped": result.get("stopped", False),
        "gentler": record.progress["gentler"],
        "chosen": chosen,
        "edge": ", ".join(choice.edges) or None if chosen and choice else None,
        "train_seconds": result.get("train_seconds"),
    }
