"""`tokensweep export`: the study's tables as CSV and LaTeX."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from orchestrator.errors import UserError, not_one_of
from orchestrator.results.tables import read_tables
from orchestrator.storage.store import Store
from trainables.files import write_atomic
from trainables.store_path import StorePath

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "latex")


def export_tables(
    store: Store, folder: StorePath | None, formats: Iterable[str], console: Console
) -> None:
    """Write every table of a study, and its accuracies as a paper shows them, into a folder.

    Args:
        store: The study's store.
        folder: Where to; None: `STUDY-tables` in the working folder. Files of the same names there
            are replaced.
        formats: Some of `FORMATS`.
        console: Told what lies where.

    Raises:
        UserError: A format is none that there is, or the study has no tables yet.
    """
    formats = list(dict.fromkeys(formats))
    for given in formats:
        if given not in FORMATS:
            raise not_one_of("--format", given, FORMATS)
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
    console.print(f"{study}: {len(tables)} tables as {counts}", highlight=False, soft_wrap=True)


def tables_of(store: Store) -> "dict[str, pd.DataFrame]":
    """Return the study's tables by name.

    Raises:
        UserError: There are none yet.
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
    """Return a table whose lists are JSON."""
    frame = frame.copy()
    for name in frame.select_dtypes(object):
        frame[name] = frame[name].map(_json)
    return frame


def _as_csv(frame: "pd.DataFrame") -> str:
    """Return a table as CSV: missing values are empty, numbers exact."""
    return with_lists_as_json(frame).to_csv(index=False, lineterminator="\n")


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(np.asarray(value).tolist())
