"""The report stage: the study's page and its figures, from the store alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.processes import shared_out
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

if TYPE_CHECKING:
    from analysis.report.figures import Drawable

RULE = "2"
"""Changes with what is recorded of a report: those of before are then made again."""
FIGURES_A_PROCESS = 8
"""Fewest figures that are worth starting a process: it takes seconds, as they do."""
KEEP_SECONDS = 5.0
"""A report that is killed loses no more than the figures drawn since."""

Say = Callable[[str], None]
Tell = Callable[[str, int, int], None]
"""Told again and again what is done, how many parts of it are, and of how many."""


def report_is_current(store: Store, cells: Sequence[StoredCell]) -> bool:
    """Tell whether page and figures are whole and show these cells as they are now."""
    record = read_sealed_json(_record(store))
    if record is None or record["inputs"] != _inputs(store, cells):
        return False
    read_checked(store.report, record["sha256"])
    for figure in record["figures"].values():
        _check(store, figure)
    return True


def write_report(
    store: Store,
    cells: Sequence[StoredCell],
    data: Path | None,
    say: Say,
    tell: Tell,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Write the page, then its figures, also of a study that is not finished or not compared.

    Images that are not chosen yet are. Figures that an earlier report has drawn from the same are
    not drawn again. What is drawn is kept as it comes, also where that is interrupted.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        data: Folder of the datasets, as it was given, to cut pictures of images out of.
        say: Told what the page has to do without, and why.
        tell: Told how far images and figures are.
        stopping: Asked after each figure whether to stop there.

    Returns:
        Whether that came to its end.
    """
    from analysis.report import render  # Imports plotly.
    from orchestrator.results.sampling import fill_samples  # Imports Ray.

    fill_samples(store, cells, data, say, partial(tell, "choosing images"), stopping)
    inputs = _inputs(store, cells)
    study = store.read_study()
    provenance = {"git commit": str(study["git_commit"]), **study["versions"]}
    records = [record_of(cell) for cell in cells]
    tables, samples = read_tables(store), read_samples(store)
    page, figures = render(study["name"], records, tables, provenance, samples)
    write_atomic(store.report, page.encode())
    drawn = FigureFiles(store, digest(page.encode()), figures.drawables)
    if not drawn.complete(tell, stopping):
        return False
    drawn.remove_others()
    drawn.keep(inputs)
    return True


class FigureFiles:
    """The files of a report's figures, and what is recorded of them.

    Args:
        store: The study's store.
        page: SHA-256 of the page.
        figures: All of its figures, by name.
    """

    def __init__(self, store: Store, page: str, figures: "Mapping[str, Drawable]") -> None:
        from analysis.report.figures import source

        self._store = store
        self._page = page
        self._figures = figures
        self._sources = {name: digest(source(figure)) for name, figure in figures.items()}
        self._drawn = {
            name: figure
            for name, figure in _figures_before(store).items()
            if figure["source"] == self._sources.get(name) and _is_whole(store, figure)
        }
        """Name -> digest of what it is drawn from, and of each of its files."""

    def complete(self, tell: Tell, stopping: Callable[[], bool]) -> bool:
        """Draw the figures that are not in files yet; tell whether that came to its end."""
        from analysis.report.figures import files

        missing = [named for named in self._figures.items() if named[0] not in self._drawn]
        drawing = shared_out(files, missing, "draws figures", FIGURES_A_PROCESS)
        self.keep()
        kept = time.monotonic()
        try:
            with closing(drawing):
                for (name, _), contents in zip(missing, drawing, strict=True):
                    self._write(name, contents)
                    tell("drawing figures", len(self._drawn), len(self._figures))
                    if stopping():
                        break
                    if time.monotonic() - kept > KEEP_SECONDS:
                        self.keep()
                        kept = time.monotonic()
        finally:
            self.keep()
        return len(self._drawn) == len(self._figures)

    def keep(self, inputs: Mapping[str, Any] | None = None) -> None:
        """Record what is drawn; of a whole report also what it is made from."""
        vouched = {"inputs": inputs, "sha256": self._page, "figures": self._drawn}
        write_sealed_json(_record(self._store), vouched)

    def remove_others(self) -> None:
        """Remove the figures of an earlier report that this one does not have."""
        names = {name for figure in self._drawn.values() for name in figure["files"]}
        for form in {name.rpartition(".")[2] for name in names}:
            for path in self._store.figures.glob(f"*.{form}"):
                if path.name not in names:
                    path.unlink(missing_ok=True)

    def _write(self, name: str, contents: Mapping[str, bytes]) -> None:
        for file, content in contents.items():
            write_atomic(self._store.figures / file, content)
        digests = {file: digest(content) for file, content in contents.items()}
        self._drawn[name] = {"source": self._sources[name], "files": digests}


def _figures_before(store: Store) -> dict[str, Any]:
    """Return what is recorded of an earlier report's figures, by name."""
    try:
        record = read_sealed_json(_record(store))
    except DamagedFileError:
        return {}
    figures: Mapping[str, Any] = record["figures"] if record else {}
    # Of a figure of before the second rule only the digest was recorded.
    return {name: figure for name, figure in figures.items() if isinstance(figure, dict)}


def _is_whole(store: Store, figure: Mapping[str, Any]) -> bool:
    try:
        _check(store, figure)
    except DamagedFileError:
        return False
    return True


def _check(store: Store, figure: Mapping[str, Any]) -> None:
    """Raise DamagedFileError unless all files of a figure are whole."""
    for name, expected in figure["files"].items():
        if "/" in name:
            raise DamagedFileError(_record(store), f"{name!r} is no figure")
        read_checked(store.figures / name, expected)


def _record(store: Store) -> StorePath:
    return store.report.with_name("inputs.json")


def _inputs(store: Store, cells: Sequence[StoredCell]) -> dict[str, Any]:
    """Return what the page depends on: the cells, and tables and samples as they are."""
    tables = store.tables / "inputs.json"
    made = digest(tables.read_bytes()) if tables.exists() else None
    samples = sample_digests(store)
    return {"rule": RULE, "cells": fingerprint(cells), "tables": made, "samples": samples}
