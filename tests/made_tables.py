"""A study whose tables were made of one cell, without running anything."""

from analysis.records import CellRecord
from analysis.seeds import seeds_table
from analysis.tables import results_table
from orchestrator.results.table_store import publish_tables
from orchestrator.store.store import Store

METRICS = {"metric": "top1", "accuracy": 91.123456789012345, "tokens": {"3": 32.0, "6": 16.0}}
CELL = CellRecord(
    cell_id="digits-topk-tiny", dataset="digits", method="topk", family="pruning", capacity="tiny",
    keep_rate=0.5, stages=(3, 6), seed=0, state="done", series="digits-topk-tiny-r0.5",
    metrics=METRICS,
)  # fmt: skip


def compared_study(storage):
    """Return the store of a study with tables of one cell."""
    store = Store(storage / "made_up")
    store.create({"name": "made_up", "versions": {"python": "3"}, "git_commit": "abc"}, [])
    results = results_table([CELL])
    publish_tables(store, {"results": results, "seeds": seeds_table(results)}, {})
    return store
