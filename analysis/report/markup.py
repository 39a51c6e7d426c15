"""Building blocks of the report's HTML. Arguments named `html` are markup, all others text."""

import json
from collections.abc import Mapping, Sequence
from html import escape

from analysis.report.charts import Figure

MISSING = "—"
"""Stands where there is no value."""


def section(anchor: str, title: str, html: str) -> str:
    """Return a titled section of the page."""
    return f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{html}</section>'


def link(target: str, text: str) -> str:
    """Return a link."""
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def empty(text: str) -> str:
    """Return the sentence that stands where there is nothing to show yet."""
    return f'<p class="empty">{escape(text)}</p>'


def figure(html: str, caption: str) -> str:
    """Return a figure with its caption."""
    return f"<figure>{html}<figcaption>{escape(caption)}</figcaption></figure>"


def chart(plot: Figure, title: str) -> str:
    """Return a panel with a plotly figure, drawn by the page's script once it is visible."""
    # In a script element only "<" could end the data early.
    data = json.dumps(plot, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<div class="panel"><h3>{escape(title)}</h3><div class="chart" role="img"'
        f' aria-label="{escape(title)}"></div>'
        f'<script type="application/json">{data}</script></div>'
    )


def panels(html: Sequence[str], width: float = 20) -> str:
    """Return panels side by side, as many as fit with at least `width` (in font sizes) each."""
    return f'<div class="panels" style="--width:{width:g}rem">{"".join(html)}</div>'


def views(html: Mapping[str, str], label: str) -> str:
    """Return alternatives of which a select, if there are several, shows one."""
    if len(html) == 1:
        return next(iter(html.values()))
    options = "".join(f"<option>{escape(name)}</option>" for name in html)
    bodies = "".join(
        f'<div class="view"{" hidden" if place else ""}>{body}</div>'
        for place, body in enumerate(html.values())
    )
    return (
        f'<div class="views"><label>{escape(label)} <select>{options}</select></label>'
        f"{bodies}</div>"
    )


def table(
    columns: Sequence[str], html_rows: Sequence[Sequence[str]], *, name: str, numbers: int = 0
) -> str:
    """Return a table that scrolls sideways; the last `numbers` columns are numbers."""
    first = len(columns) - numbers
    head = "".join(_cell("th", escape(column), i >= first) for i, column in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(_cell("td", html, i >= first) for i, html in enumerate(row)) + "</tr>"
        for row in html_rows
    )
    return (
        f'<div class="scroll"><table class="{escape(name)}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def number(value: float | None, form: str = ".2f") -> str:
    """Return a number as text; a dash where it is missing."""
    return MISSING if value is None or value != value else format(value, form)


def _cell(tag: str, html: str, is_number: bool) -> str:
    return f"<{tag}{' class=number' if is_number else ''}>{html}</{tag}>"
