"""The study's tables as files, and whether they are up to date."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState, StoredCell
from trainables.storage import layout
from trainables.storage.files import JsonRecord
from trainables.storage.sealed import Digests, SealedFiles

if TYPE_CHECKING:
    import pandas as pd


TABLES_RULE = "3"
"""Changes with the columns of tables and with how their values are computed; tables made by another
rule are made again."""


def tables_are_current(store: Store, inputs: Mapping[str, str]) -> bool:
    """Return whether the tables are whole and made from cells with this fingerprint.

    Raises:
        DamagedFileError: They were made from these cells, but one is damaged.
    """
    return _tables(store).is_current(inputs=inputs, rule=TABLES_RULE)


def fingerprint(cells: Sequence[StoredCell]) -> dict[str, str]:
    """Return what tables and report depend on: the evaluation or the state of each cell."""
    return {cell.id: _known(cell, cell.state()) for cell in cells}


def _known(cell: StoredCell, state: CellState) -> str:
    if state is CellState.DONE:
        return cell.evaluation_digest()
    return f"{state} {cell.imported()}" if state is CellState.RECORDED else str(state)


def publish_tables(
    store: Store, tables: "Mapping[str, pd.DataFrame]", inputs: Mapping[str, str]
) -> None:
    """Write every table, then the record that vouches for them and names their `inputs`."""
    files = _tables(store)
    digests = _write(files, tables)
    files.seal({"inputs": dict(inputs), "rule": TABLES_RULE, "files": digests})


def replace_tables(store: Store, tables: "Mapping[str, pd.DataFrame]") -> None:
    """Write some tables; the others stay, and so does what the record says of their inputs."""
    files = _tables(store)
    record = files.read_record() or {"inputs": {}, "rule": TABLES_RULE, "files": {}}
    files.seal({**record, "files": {**record["files"], **_write(files, tables)}})


def _write(files: SealedFiles, tables: "Mapping[str, pd.DataFrame]") -> Digests:
    digests: dict[str, str] = {}
    for name, frame in tables.items():
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        digests |= files.write({_file(name): buffer.getvalue()})
    return digests


def read_tables(store: Store) -> "dict[str, pd.DataFrame]":
    """Return the tables that exist, by name.

    Those of an earlier version get the columns they lack, without values; one whose new columns
    cannot be without is left out, as if it had not been made.

    Raises:
        DamagedFileError: One of them is damaged.
    """
    # Loading pandas takes half a second, which a launch of a finished study saves.
    import pandas as pd

    from analysis.earlier_tables import completed
    from analysis.tables import SCHEMAS

    files = _tables(store)
    vouched = files.vouched() if files.record_path.exists() else {}
    stored = {
        name: completed(name, pd.read_parquet(io.BytesIO(files.read(_file(name)))))
        for name in SCHEMAS
        if _file(name) in vouched
    }
    return {name: frame for name, frame in stored.items() if frame is not None}


def _tables(store: Store) -> SealedFiles:
    names = (layout.TABLE.glob_in_folder,)
    return SealedFiles(store.tables, layout.TABLES_RECORD.name_in_folder(), names, _digests)


def _digests(record: JsonRecord) -> Digests:
    return dict(record["files"])


def _file(table: str) -> str:
    return layout.TABLE.name_in_folder(table=table)
