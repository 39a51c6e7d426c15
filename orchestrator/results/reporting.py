"""The report phase: writes the study's page and its figures from the store alone."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.console import Context
from orchestrator.processes import shared_out
from orchestrator.results.cell_records import record_of
from orchestrator.results.sample_store import read_samples, sample_digests
from orchestrator.results.table_store import fingerprint, read_tables
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import StoredCell
from trainables.storage import layout
from trainables.storage.files import (
    DamagedFileError,
    JsonRecord,
    digest,
    read_checked,
    write_atomic,
)
from trainables.storage.sealed import Digests, SealedFiles

if TYPE_CHECKING:
    from analysis.report.figures import Drawable

REPORT_RULE = "2"
"""Changes with what is recorded of a report; reports made by another rule are made again."""
FIGURES_A_PROCESS = 8
"""Fewest figures for which a process is started, which takes as long as drawing some."""
FIGURES = (layout.FIGURE_SVG, layout.FIGURE_PNG)
KEEP_SECONDS = 5.0
"""Seconds between two saves; a report that is killed draws only the figures since again."""


def report_is_current(store: Store, cells: Sequence[StoredCell]) -> bool:
    """Tell whether page and figures are whole and show these cells as they are now.

    Raises:
        DamagedFileError: They show these cells, but one of them is damaged.
    """
    return _report(store).is_current(inputs=_inputs(store, cells))


def write_report(
    store: Store,
    cells: Sequence[StoredCell],
    data: Path | None,
    context: Context,
) -> bool:
    """Write the page, then its figures; the study need not be finished or compared.

    Missing samples are made first. Figures that an earlier report has drawn from the same data
    are reused. Figures are kept as they are drawn, even if that is interrupted.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        data: Folder of the datasets as given, from which pictures are cut.
        context: Shows how far images and figures are, and what the page lacks. It can stop the
            report after each figure.

    Returns:
        Whether page and figures are complete.
    """
    from analysis.report import render  # Imports plotly.
    from orchestrator.results.sampling import in_this_process, make_samples

    choosing = in_this_process(context)
    make_samples(store, cells, fingerprint(cells), data, choosing, pictures=data is not None)
    inputs = _inputs(store, cells)
    study = store.read_study()
    provenance = {"git commit": str(study["git_commit"]), **study["versions"]}
    records = [record_of(cell) for cell in cells]
    tables, samples = read_tables(store), read_samples(store)
    page, figures = render(study["name"], records, tables, provenance, samples)
    write_atomic(store.report, page.encode())
    drawn = FigureFiles(store, digest(page.encode()), figures.drawables)
    if not drawn.complete(context):
        return False
    drawn.remove_others()
    drawn.keep(inputs)
    return True


@dataclass(frozen=True)
class DrawnFigure:
    """A figure that is in files, as the report's record has it."""

    source: str
    """Digest of what it is drawn from."""
    files: dict[str, str]
    """SHA-256 of each of its files, by name."""


class FigureFiles:
    """The files of a report's figures and their record.

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
        self._report = _report(store)
        self._sources = {name: digest(source(figure)) for name, figure in figures.items()}
        self._drawn = {
            name: figure
            for name, figure in _drawn_before(self._report).items()
            if figure.source == self._sources.get(name) and _is_whole(store, figure)
        }

    def complete(self, context: Context) -> bool:
        """Draw the figures that are missing; return whether all are drawn."""
        from analysis.report.figures import files

        missing = [named for named in self._figures.items() if named[0] not in self._drawn]
        drawing = shared_out(files, missing, "draws figures", FIGURES_A_PROCESS)
        self.keep()
        kept = time.monotonic()
        try:
            with closing(drawing):
                for (name, _), contents in zip(missing, drawing, strict=True):
                    self._write(name, contents)
                    context.draw("drawing figures", len(self._drawn), len(self._figures))
                    if context.stopping:
                        break
                    if time.monotonic() - kept > KEEP_SECONDS:
                        self.keep()
                        kept = time.monotonic()
        finally:
            self.keep()
        return len(self._drawn) == len(self._figures)

    def keep(self, inputs: Mapping[str, object] | None = None) -> None:
        """JsonRecord the drawn figures, and for a complete report its inputs."""
        drawn = {name: asdict(figure) for name, figure in self._drawn.items()}
        self._report.seal({"inputs": inputs, "sha256": self._page, "figures": drawn})

    def remove_others(self) -> None:
        """Remove figures of an earlier report that this one lacks."""
        names = {name for figure in self._drawn.values() for name in figure.files}
        for form in FIGURES:
            for path in form.found(self._store.path):
                if path.name not in names:
                    path.unlink(missing_ok=True)

    def _write(self, name: str, contents: Mapping[str, bytes]) -> None:
        written = self._report.write({_figure(file): data for file, data in contents.items()})
        digests = {file: written[_figure(file)] for file in contents}
        self._drawn[name] = DrawnFigure(self._sources[name], digests)


def _drawn_before(report: SealedFiles) -> dict[str, DrawnFigure]:
    """Return the figures of an earlier report by name."""
    try:
        report.vouched()  # Refuses names that are no figure's.
        record = report.read_record()
    except DamagedFileError:
        return {}
    return _figures(record) if record else {}


def _is_whole(store: Store, figure: DrawnFigure) -> bool:
    try:
        for name, expected in figure.files.items():
            read_checked(store.figures / name, expected)
    except DamagedFileError:
        return False
    return True


def _report(store: Store) -> SealedFiles:
    names = [file.glob for file in (layout.PAGE, *FIGURES)]
    return SealedFiles(store.path, layout.REPORT_RECORD.name(), names, _vouched)


def _vouched(record: JsonRecord) -> Digests:
    files = [named for figure in _figures(record).values() for named in figure.files.items()]
    return {layout.PAGE.name(): record["sha256"]} | {_figure(name): d for name, d in files}


def _figures(record: JsonRecord) -> dict[str, DrawnFigure]:
    # The first rule recorded of a figure only its digest: such a figure is drawn again.
    recorded: Mapping[str, object] = record["figures"]
    return {name: DrawnFigure(**of) for name, of in recorded.items() if isinstance(of, dict)}


def _figure(file: str) -> str:
    """Return the path of a figure's file below the study's folder."""
    return f"{layout.FIGURE_PNG.folder}/{file}"


def _inputs(store: Store, cells: Sequence[StoredCell]) -> dict[str, object]:
    """Return what the page depends on: the cells, the tables and the samples."""
    tables = layout.TABLES_RECORD.below(store.path)
    made = digest(tables.read_bytes()) if tables.exists() else None
    samples = sample_digests(store)
    return {"rule": REPORT_RULE, "cells": fingerprint(cells), "tables": made, "samples": samples}
