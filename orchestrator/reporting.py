"""The report stage: the study's page, from the store alone."""

from collections.abc import Sequence
from typing import Any

from orchestrator.records import record_of
from orchestrator.store import Store, StoredCell
from orchestrator.tables import fingerprint, read_tables
from trainables.files import (
    digest,
    read_checked,
    read_sealed_json,
    write_atomic,
    write_sealed_json,
)


def report_is_current(store: Store, cells: Sequence[StoredCell]) -> bool:
    """Tell whether the page is whole and shows these cells as they are now."""
    record = read_sealed_json(store.report.with_name("inputs.json"))
    if record is None or record["inputs"] != _inputs(store, cells):
        return False
    read_checked(store.report, record["sha256"])
    return True


def write_report(store: Store, cells: Sequence[StoredCell]) -> None:
    """Render the page, also of a study that is not finished."""
    from analysis.report import render  # Imports plotly.

    inputs = _inputs(store, cells)
    study = store.read_study()
    provenance = {"git commit": str(study["git_commit"]), **study["versions"]}
    records = [record_of(cell) for cell in cells]
    page = render(study["name"], records, read_tables(store), provenance).encode()
    write_atomic(store.report, page)
    write_sealed_json(
        store.report.with_name("inputs.json"), {"inputs": inputs, "sha256": digest(page)}
    )


def _inputs(store: Store, cells: Sequence[StoredCell]) -> dict[str, Any]:
    """Return what the page depends on: the cells, and the tables as they are."""
    tables = store.tables / "inputs.json"
    made = digest(tables.read_bytes()) if tables.exists() else None
    return {"cells": fingerprint(cells), "tables": made}
