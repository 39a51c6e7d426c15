"""How methods look: one order and one line style for every figure of a report.

The colours can be told apart with any common colour vision; beyond six methods the marker and
the dash tell them apart as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from zlib import crc32

from analysis.records import CellRecord

BASELINE = "baseline"
FAMILIES = (BASELINE, "control", "pruning", "merging", "soft")
"""Order in which families are listed; others follow."""
COLOURS = ("#1199ee", "#cc1199", "#999900", "#7744ff", "#337733", "#cc7788")
"""As far apart as a search could find with any colour vision, and visible on both themes."""
KNOWN = (
    *("topk", "evit", "ats", "dynamicvit", "cropr", "idlevit"),
    *("tome", "atc", "kmedoids", "dpcknn", "tofu", "pitome"),
    *("sit", "patchmerger", "sinkhorn", "l1", "l2", "linf"),
    *("random", "diffrate", "gtp", "mctf", "dtem", "hatp"),
    *("ppt", "soft"),
)
"""Methods by their place among colours and markers; new ones are added at the end."""
DASHES = {"solid": "", "dash": "5 3", "dot": "2 2"}
"""Plotly's name of a dash -> the same in SVG."""
SYMBOLS = {
    "circle": "M11 3a4 4 0 1 0 .01 0z",
    "square": "M7.5 3.5h7v7h-7z",
    "diamond": "M11 2l5 5-5 5-5-5z",
    "triangle-up": "M11 2.5l5 8h-10z",
    "cross": "M9.5 2h3v3.5H16v3h-3.5V12h-3V8.5H6v-3h3.5z",
    "triangle-down": "M11 11.5l5-8h-10z",
    "pentagon": "M11 2l5 4-2 6h-6l-2-6z",
    "hexagon": "M8.5 3h5l2.5 4-2.5 4h-5L6 7z",
}
"""Plotly's name of a marker -> its outline in a 22 x 14 box."""
STYLES = 72
"""Places at which colour, dash and marker come together anew."""
INK = "var(--ink)"
"""The page's text colour, light or dark."""
SOFT = "var(--soft)"
LINE = "var(--line)"
THEME = {INK: "#1b2130", SOFT: "#5b6475", LINE: "#dfe3ea"}
"""The page's light colours, which files take."""


@dataclass(frozen=True)
class MethodStyle:
    """Colour, dash and marker of a method."""

    colour: str
    dash: str
    symbol: str


def ordered_methods(records: Sequence[CellRecord]) -> list[str]:
    """Methods by family, within a family in the order of the study."""
    families = {record.method: record.family for record in records}
    position = {family: place for place, family in enumerate(FAMILIES)}
    return sorted(families, key=lambda method: position.get(families[method], len(FAMILIES)))


def style_of(method: str) -> MethodStyle:
    """Style of a method with reduction: the same in every study, whatever else is in it.

    Methods of `KNOWN` differ from each other and from all others, whose names decide which of the
    remaining styles they have: two of these may look alike.
    """
    others = len(KNOWN) + crc32(method.encode()) % (STYLES - len(KNOWN))
    place = KNOWN.index(method) if method in KNOWN else others
    dashes, symbols = list(DASHES), list(SYMBOLS)
    return MethodStyle(
        COLOURS[place % len(COLOURS)],
        dashes[place // len(COLOURS) % len(dashes)],
        symbols[place % len(symbols)],
    )


def method_styles(records: Sequence[CellRecord]) -> dict[str, MethodStyle]:
    """Style of every method of a study; baselines are drawn dotted in the text colour."""
    baselines = {record.method for record in records if record.family == BASELINE}
    styles = {method: MethodStyle(INK, "dot", "star") for method in sorted(baselines)}
    reduced = [method for method in ordered_methods(records) if method not in baselines]
    return styles | {method: style_of(method) for method in reduced}


def legend(records: Sequence[CellRecord]) -> str:
    """Buttons that name the methods' styles; a click lights a method everywhere on the page."""
    styles = method_styles(records)
    buttons = "".join(_button(method, styles[method]) for method in ordered_methods(records))
    return f'<div class="legend" title="Click a method to light it everywhere">{buttons}</div>'


def _button(method: str, style: MethodStyle) -> str:
    name, colour = escape(method), style.colour
    line = f'<path d="M0 7h22" stroke="{colour}" stroke-width="2"'
    line += f' stroke-dasharray="{DASHES[style.dash]}"/>'
    outline = SYMBOLS.get(style.symbol)
    marker = f'<path d="{outline}" fill="{colour}"/>' if outline else ""
    swatch = f'<svg width="22" height="14" aria-hidden="true">{line}{marker}</svg>'
    return (
        f'<button type="button" data-method="{name}" aria-pressed="false">{swatch}{name}</button>'
    )
