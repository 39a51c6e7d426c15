"""The report's page: sections, style, script and plotly in a single file."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple

import pandas as pd
from plotly.offline import get_plotlyjs

from analysis.records import CellRecord
from analysis.report import (
    images,
    maps_compared,
    markup,
    overview,
    performance,
    significance,
    similarity,
    tuned,
)
from analysis.report.figures import Figures
from analysis.report.report_context import ReportContext
from analysis.samples import Sample
from analysis.speeds import measured_records
from analysis.tables import table


class Section(NamedTuple):
    """A part of the page."""

    anchor: str
    title: str
    body: Callable[[ReportContext], str]
    """Returns the section's HTML, without its heading; nothing where the page is without it."""


SECTIONS = (
    Section("summary", "Summary", overview.summary),
    Section("accuracy", "Accuracy", performance.accuracy),
    Section("cost", "Cost", performance.cost),
    Section("tuning", "Tuning", tuned.tuning),
    Section("ranks", "Ranks", significance.ranks),
    Section("depth", "Token depth", similarity.token_depth),
    Section("images", "On single images", images.images),
    Section("maps", "Depth maps compared", maps_compared.compared),
    Section("similarity", "Similarity of methods", similarity.similarity),
    Section("correlations", "Likeness and accuracy", significance.correlations),
    Section("cells", "All cells", overview.cells),
    Section("provenance", "Provenance", overview.provenance),
)
"""The page's sections, in order."""


class RenderedReport(NamedTuple):
    """What a study comes to."""

    page: str
    """HTML."""
    figures: Figures
    """The page's figures, to be written to files, too."""


def render(
    study_name: str,
    records: Sequence[CellRecord],
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, str],
    samples: Sequence[Sample] = (),
) -> RenderedReport:
    """Write the report of a study, finished or not, as one HTML page that needs no network.

    Args:
        study_name: Name of the study.
        records: All its cells, in the order of the study.
        tables: Tables by name (`analysis.tables.SCHEMAS`); absent or empty ones are said to
            be missing.
        provenance: What to state about the origin of the numbers, name -> value.
        samples: Chosen images of its settings, with what the cells made of them.
    """
    results = tables["results"] if "results" in tables else table("results", ())
    findings = ReportContext(measured_records(records, results), tables, provenance, samples)
    bodies = {section: html for section in SECTIONS if (html := section.body(findings))}
    content = [markup.section(s.anchor, s.title, html) for s, html in bodies.items()]
    page = Template(_asset("page.html")).substitute(
        title=escape(study_name),
        links="\n".join(markup.link(f"#{s.anchor}", s.title) for s in bodies),
        style=_asset("style.css") + _asset("overlays.css"),
        plotly=get_plotlyjs(),
        script=_asset("script.js") + _asset("overlays.js"),
        content="\n".join(content),
    )
    return RenderedReport(page, findings.figures)


def _asset(name: str) -> str:
    return files("analysis.report").joinpath(name).read_text(encoding="utf-8")
