"""The report's page: sections, style, script and plotly in a single file."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

import pandas as pd
from plotly.offline import get_plotlyjs

from analysis.records import CellRecord
from analysis.report import patterns, sections, statistics


def render(
    study_name: str,
    records: Sequence[CellRecord],
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, str],
) -> str:
    """Write the report of a study, finished or not, as one HTML page that needs no network.

    Args:
        study_name: Name of the study.
        records: All its cells, in the order of the study.
        tables: Tables by name (`analysis.tables.SCHEMAS`); absent or empty ones are said to
            be missing. Used: `depth_maps`, `pruning`, `merging`, `features`, `ranks`,
            `correlations`.
        provenance: What to state about the origin of the numbers, name -> value.
    """
    content = (
        sections.summary(records),
        sections.accuracy(records),
        statistics.ranks(records, tables),
        patterns.token_depth(records, tables),
        patterns.similarity(records, tables),
        statistics.correlations(tables),
        sections.cells(records),
        sections.provenance(records, provenance),
    )
    return Template(_asset("page.html")).substitute(
        title=escape(study_name),
        style=_asset("style.css"),
        plotly=get_plotlyjs(),
        script=_asset("script.js"),
        content="\n".join(content),
    )


def _asset(name: str) -> str:
    return files("analysis.report").joinpath(name).read_text(encoding="utf-8")
