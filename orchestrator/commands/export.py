"""`tokensweep export`: the study's tables as CSV and LaTeX."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from orchestrator.console import line
from orchestrator.errors import UserError, not_one_of
from orchestrator.results.table_store import read_tables
from orchestrator.store.store import Store
from trainables.storage.files import write_atomic
from trainables.storage.paths import StorePath

if TYPE_CHECKING:
    import pandas as pd

EXPORT_FORMATS = ("csv", "latex")


def export_tables(
    store: Store, folder: StorePath | None, formats: Iterable[str], console: Console
) -> None:
    """Write every table of a study, and its accuracies as papers print them, to a folder.

    Args:
        store: The study's store.
        folder: Where to write, by default `STUDY-tables` in the working folder. Existing files
            of the same names are replaced.
        formats: Some of `EXPORT_FORMATS`.
        console: Where to print what was written.

    Raises:
        UserError: A format is unknown, or the study has no tables yet.
    """
    formats = list(dict.fromkeys(formats))
    for given in formats:
        if given not in EXPORT_FORMATS:
            raise not_one_of("--format", given, EXPORT_FORMATS)
    tables = tables_of(store)
    study = store.read_study()["name"]
    folder = folder or Path(f"{study}-tables")
    files = files_of(tables, formats, study)
    for name, text in files.items():
        write_atomic(folder / name, text.encode())
    counts = ", ".join(
        f"{sum(name.endswith(f'.{ending}') for name in files)} files {folder}/*.{ending}"
        for ending in sorted({name.rpartition(".")[2] for name in files})
    )
    line(console, f"{study}: {len(tables)} tables as {counts}")


def tables_of(store: Store) -> "dict[str, pd.DataFrame]":
    """Return the study's tables by name.

    Raises:
        UserError: There are no tables yet.
    """
    tables = read_tables(store)
    if not tables:
        raise UserError(
            f"{store.path} has no tables yet; run the study with --stages compare,report first"
        )
    return tables


def files_of(
    tables: "Mapping[str, pd.DataFrame]", formats: Iterable[str], study: str
) -> dict[str, str]:
    """Return the content of every file by its name."""
    files: dict[str, str] = {}
    if "csv" in formats:
        files |= {f"{name}.csv": _as_csv(frame) for name, frame in tables.items()}
    if "latex" in formats:
        from analysis.latex import latex_files

        files |= {f"{name}.tex": text for name, text in latex_files(tables, study).items()}
    return files


def with_lists_as_json(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with its lists as JSON text."""
    frame = frame.copy()
    for name in frame.select_dtypes(object):
        frame[name] = frame[name].map(_json)
    return frame


def _as_csv(frame: "pd.DataFrame") -> str:
    """Return a table as CSV, with empty missing values and exact numbers."""
    return with_lists_as_json(frame).to_csv(index=False, lineterminator="\n")


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(np.asarray(value).tolist())
