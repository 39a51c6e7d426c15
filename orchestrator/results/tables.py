"""The study's tables as files, and what tells whether they are up to date."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.storage.store import CellState, Store, StoredCell
from trainables.files import (
    DamagedFileError,
    digest,
    read_checked,
    read_sealed_json,
    write_atomic,
    write_sealed_json,
)

if TYPE_CHECKING:
    import pandas as pd

TABLES = (
    "results",
    "seeds",
    "pruning",
    "merging",
    "features",
    "tokens",
    "depth_maps",
    "heatmaps",
    "correlations",
    "ranks",
)


def tables_are_current(store: Store, inputs: Mapping[str, str]) -> bool:
    """Tell whether the tables are whole and made from cells with just this fingerprint."""
    record = read_sealed_json(store.tables / "inputs.json")
    if record is None or record["inputs"] != inputs:
        return False
    for name, expected in record["files"].items():
        if name.removesuffix(".parquet") not in TABLES:
            raise DamagedFileError(store.tables / "inputs.json", f"{name!r} is no table")
        read_checked(store.tables / name, expected)
    return True


def fingerprint(cells: Sequence[StoredCell]) -> dict[str, str]:
    """Return what tables and report depend on: each cell's state, or what is known of it."""
    return {cell.id: _known(cell, cell.state()) for cell in cells}


def _known(cell: StoredCell, state: CellState) -> str:
    if state is CellState.DONE:
        return cell.evaluation_digest()
    return f"{state} {cell.imported()}" if state is CellState.RECORDED else str(state)


def publish_tables(
    store: Store, tables: "Mapping[str, pd.DataFrame]", inputs: Mapping[str, str]
) -> None:
    """Write every table, then the record that vouches for them and names their `inputs`."""
    files = {}
    for name, frame in tables.items():
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_atomic(store.tables / f"{name}.parquet", buffer.getvalue())
        files[f"{name}.parquet"] = digest(buffer.getvalue())
    write_sealed_json(store.tables / "inputs.json", {"inputs": dict(inputs), "files": files})


def read_tables(store: Store) -> "dict[str, pd.DataFrame]":
    """Return the tables that exist, by name."""
    import pandas as pd  # For half a second, which a finished study is not to wait.

    record = read_sealed_json(store.tables / "inputs.json") or {"files": {}}
    return {
        name: pd.read_parquet(io.BytesIO(read_checked(store.tables / f"{name}.parquet", expected)))
        for name in TABLES
        if (expected := record["files"].get(f"{name}.parquet"))
    }
