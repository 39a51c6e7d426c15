"""The report's page: sections, style, script and plotly in a single file."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple

import pandas as pd
from plotly.offline import get_plotlyjs

from analysis.records import CellRecord
from analysis.report import patterns, sections, statistics
from analysis.report.figures import Figures


class Report(NamedTuple):
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
) -> Report:
    """Write the report of a study, finished or not, as one HTML page that needs no network.

    Args:
        study_name: Name of the study.
        records: All its cells, in the order of the study.
        tables: Tables by name (`analysis.tables.SCHEMAS`); absent or empty ones are said to
            be missing. Used: `depth_maps`, `pruning`, `merging`, `features`, `ranks`,
            `correlations`.
        provenance: What to state about the origin of the numbers, name -> value.
    """
    figures = Figures()
    content = (
        sections.summary(records),
        sections.accuracy(records, figures),
        statistics.ranks(records, tables, figures),
        patterns.token_depth(records, tables, figures),
        patterns.similarity(records, tables, figures),
        statistics.correlations(tables, figures),
        sections.cells(records),
        sections.provenance(records, provenance),
    )
    page = Template(_asset("page.html")).substitute(
        title=escape(study_name),
        style=_asset("style.css"),
        plotly=get_plotlyjs(),
        script=_asset("script.js"),
        content="\n".join(content),
    )
    return Report(page, figures)


def _asset(name: str) -> str:
    return files("analysis.report").joinpath(name).read_text(encoding="utf-8")
