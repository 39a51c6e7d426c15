"""The report stage: the study's page, from the store alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.results.records import record_of
from orchestrator.results.samples import read_samples, sample_digests
from orchestrator.results.tables import fingerprint, read_tables
from orchestrator.storage.store import Store, StoredCell
from trainables.files import (
    DamagedFileError,
    digest,
    read_checked,
    read_sealed_json,
    write_atomic,
    write_sealed_json,
)
from trainables.store_path import StorePath


def report_is_current(store: Store, cells: Sequence[StoredCell]) -> bool:
    """Tell whether page and figures are whole and show these cells as they are now."""
    record = read_sealed_json(_record(store))
    if record is None or record["inputs"] != _inputs(store, cells):
        return False
    read_checked(store.report, record["sha256"])
    for name, expected in record["figures"].items():
        if "/" in name:
            raise DamagedFileError(_record(store), f"{name!r} is no figure")
        read_checked(store.figures / name, expected)
    return True


def write_report(store: Store, cells: Sequence[StoredCell]) -> None:
    """Render the page and its figures, also of a study that is not finished."""
    from analysis.report import render  # Imports plotly.

    inputs = _inputs(store, cells)
    study = store.read_study()
    provenance = {"git commit": str(study["git_commit"]), **study["versions"]}
    records = [record_of(cell) for cell in cells]
    tables, samples = read_tables(store), read_samples(store)
    page, figures = render(study["name"], records, tables, provenance, samples)
    write_atomic(store.report, page.encode())
    drawn = {}
    for name, content in figures.files():
        write_atomic(store.figures / name, content)
        drawn[name] = digest(content)
    _remove_others(store, drawn)
    vouched = {"inputs": inputs, "sha256": digest(page.encode()), "figures": drawn}
    write_sealed_json(_record(store), vouched)


def _remove_others(store: Store, drawn: Mapping[str, str]) -> None:
    """Remove the figures of an earlier report that this one does not have."""
    for form in {name.rpartition(".")[2] for name in drawn}:
        for path in store.figures.glob(f"*.{form}"):
            if path.name not in drawn:
                path.unlink(missing_ok=True)


def _record(store: Store) -> StorePath:
    return store.report.with_name("inputs.json")


def _inputs(store: Store, cells: Sequence[StoredCell]) -> dict[str, Any]:
    """Return what the page depends on: the cells, and tables and samples as they are."""
    tables = store.tables / "inputs.json"
    made = digest(tables.read_bytes()) if tables.exists() else None
    return {"cells": fingerprint(cells), "tables": made, "samples": sample_digests(store)}
