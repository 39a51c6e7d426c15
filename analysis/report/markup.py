"""Building blocks of the report's HTML. Arguments named `html` are markup, all others text."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from statistics import stdev

from analysis.report.charts import Figure, finding
from analysis.report.groups import Key

MISSING = "—"
"""Stands where there is no value."""
FEWEST_FILTERED = 12
"""A table with fewer rows is seen at a glance."""


def section(anchor: str, title: str, html: str) -> str:
    """Return a titled section of the page."""
    return f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{html}</section>'


def heading(text: str) -> str:
    """Return the heading of a part of a section."""
    return f"<h3>{escape(text)}</h3>"


def link(target: str, text: str) -> str:
    """Return a link."""
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def empty(text: str) -> str:
    """Return the sentence that stands where there is nothing to show yet."""
    return f'<p class="empty">{escape(text)}</p>'


def figure(html: str, caption: str) -> str:
    """Return a figure with its caption."""
    return f"<figure>{html}<figcaption>{escape(caption)}</figcaption></figure>"


def caption(text: str) -> str:
    """Return what explains the parts before it."""
    return f'<p class="caption">{escape(text)}</p>'


def folded(title: str, html: str) -> str:
    """Return a part that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{html}</details>"


def part(title: str, html: str, *, is_open: bool) -> str:
    """Return a part of a section under its heading, which opens and closes it."""
    shown = " open" if is_open else ""
    return (
        f'<details class="part"{shown}><summary><h3>{escape(title)}</h3></summary>{html}</details>'
    )


def chart(plot: Figure, title: str) -> str:
    """Return a panel with a plotly figure, drawn by the page's script once it is in view."""
    # In a script element only "<" could end the data early.
    data = json.dumps(plot, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    layout = plot["layout"]
    size = f"height:{layout['height']}px" if "height" in layout else ""
    # What has many columns scrolls inside its panel where the screen is narrow.
    width = f";min-width:{layout['meta']['min_width']}px" if "meta" in layout else ""
    words = escape(f"{title}: {finding(plot)}")
    return (
        f'<div class="panel"><p class="title">{escape(title)}</p>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="Chart of {escape(title)}">'
        f'<div class="chart" style="{size}{width}" role="img" aria-label="{words}"></div>'
        f'<script type="application/json">{data}</script></div></div>'
    )


def panels(html: Sequence[str], width: float = 20) -> str:
    """Return panels side by side, as many as fit with at least `width` (in font sizes) each."""
    return f'<div class="panels" style="--width:{width:g}rem">{"".join(html)}</div>'


def views(html: Mapping[Key, str], axes: Sequence[str], opened: Key | None = None) -> str:
    """Return alternatives of which selects, one an axis, show one.

    Args:
        html: The alternatives, by a word for each axis.
        axes: Names of the axes; those of which no alternative has a word are left out.
        opened: The alternative that is shown at first; None shows the first one.
    """
    shown = opened or next(iter(html), ())
    used = [axis for axis in range(len(axes)) if any(key[axis] for key in html)]
    selects = "".join(
        _select(axes[axis], list(dict.fromkeys(key[axis] for key in html)), shown[axis])
        for axis in used
    )
    bodies = "".join(
        f'<div class="view" data-key="{escape(json.dumps([key[axis] for axis in used]))}"'
        f"{'' if key == shown else ' hidden'}>{body}</div>"
        for key, body in html.items()
    )
    return f'<div class="views"><div class="choices">{selects}</div>{bodies}</div>'


def _select(name: str, words: Sequence[str], chosen: str) -> str:
    options = "".join(
        f'<option value="{escape(word)}"{" selected" if word == chosen else ""}>'
        f"{escape(word or 'all')}</option>"
        for word in words
    )
    return f"<label>{escape(name)} <select>{options}</select></label>"


def scale(gradient: str, low: str, high: str) -> str:
    """Return a bar of colours (CSS) between the names of its ends."""
    return (
        f'<div class="scale">{escape(low)}<span style="background:linear-gradient(90deg,'
        f'{gradient})"></span>{escape(high)}</div>'
    )


def table(
    columns: Sequence[str],
    html_rows: Sequence[Sequence[str]],
    *,
    name: str,
    numbers: int = 0,
    filters: Sequence[str] = (),
) -> str:
    """Return a table that the page's script makes sortable, and filterable where it is long.

    Args:
        columns: Headings.
        html_rows: The rows' cells.
        name: What the rows are, as `cells`.
        numbers: How many of the last columns are numbers.
        filters: Columns that a select filters by.
    """
    first = len(columns) - numbers
    head = "".join(_heading_cell(escape(column), i >= first) for i, column in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(_cell(html, i >= first) for i, html in enumerate(row)) + "</tr>"
        for row in html_rows
    )
    choices = "".join(
        f'<label>{escape(column)} <select data-column="{columns.index(column)}">'
        '<option value="">all</option></select></label>'
        for column in filters
    )
    controls = (
        '<div class="controls"><label>Filter <input type="search"></label>'
        f'{choices}<output aria-live="polite"></output></div>'
    )
    return (
        f'<div class="table">{controls if len(html_rows) >= FEWEST_FILTERED else ""}'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table of {escape(name)}">'
        f'<table data-name="{escape(name)}"><caption>{escape(name)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def number(value: float | None, form: str = ".2f") -> str:
    """Return a number as text; a dash where it is missing."""
    return MISSING if value is None or value != value else format(value, form)


def mean_std(values: Sequence[float], form: str = ".2f") -> str:
    """Return the mean of several seeds' values with their standard deviation, if there is one."""
    mean = number(sum(values) / len(values) if values else None, form)
    return f"{mean} ± {stdev(values):{form}}" if len(values) > 1 else mean


def _heading_cell(html: str, is_number: bool) -> str:
    return f'<th scope="col"{" class=number" if is_number else ""}>{html}</th>'


def _cell(html: str, is_number: bool) -> str:
    return f"<td{' class=number' if is_number else ''}>{html}</td>"
