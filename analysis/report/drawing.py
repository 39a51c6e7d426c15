"""The report's figures as PNG and SVG files: the page's own descriptions, drawn by matplotlib.

Only what `analysis.report.charts` uses of plotly's format is understood.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis.aliases import Trace
from analysis.report.charts import Figure
from analysis.report.style import THEME

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Format = Literal["svg", "png"]
FORMATS: tuple[Format, ...] = ("svg", "png")

COLUMNS = 4
"""Most panels side by side."""
PANEL_INCHES = 4.0
FIELD_INCHES = 0.3
"""Width of a field of a heat map with many columns."""
LEGEND_INCHES = 1.3
LETTERS_PER_INCH = 11
PIXELS_PER_INCH = 100
DOTS_PER_INCH = 150
"""Of PNG files."""
DASHES = {"solid": "-", "dash": "--", "dot": ":"}
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P",
    "triangle-down": "v", "pentagon": "p", "hexagon": "h", "star": "*",
}  # fmt: skip
SETTINGS = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "svg.fonttype": "none",  # Text stays text: to be searched, and set in the reader's font.
    "svg.hashsalt": "tokensweep",  # The same figure is the same file.
}


def draw(panels: Mapping[str, Figure]) -> dict[Format, bytes]:
    """Draw figures side by side, each under its title; return the file of each format."""
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    height = max(panel["layout"].get("height", 320) for panel in panels.values())
    width = max(_width(panel) for panel in panels.values())
    with drawing_of(width * columns, rows * height / PIXELS_PER_INCH + 0.6) as drawing:
        drawing.set_layout_engine("constrained")
        axes = drawing.subplots(rows, columns, squeeze=False).flat
        for axis, (title, panel) in zip(axes, panels.items(), strict=False):
            axis.set_title(fill(_plain(title), width=int(width * LETTERS_PER_INCH)))
            _draw_panel(axis, panel)
        for unused in list(axes)[len(panels) :]:
            unused.remove()
        _legend(drawing, columns=max(1, int(width * columns / LEGEND_INCHES)))
        # Once for all formats, for it takes longer than all else.
        drawing.draw_without_rendering()
        drawing.set_layout_engine("none")
        return encoded(drawing)


@contextmanager
def drawing_of(width: float, height: float) -> "Iterator[Drawing]":
    """Give an empty drawing of some inches, set up as all of the report's files are."""
    import matplotlib as mpl  # Takes a second, and only files need it.
    from matplotlib.figure import Figure as Drawing

    with mpl.rc_context(SETTINGS):
        yield Drawing(figsize=(width, height))


def encoded(drawing: "Drawing") -> dict[Format, bytes]:
    """Return the file of each format."""
    return {form: _encoded(drawing, form) for form in FORMATS}


def _width(panel: Figure) -> float:
    """Return the inches that a panel needs, more than usual for many columns."""
    columns = max(
        (len(trace["x"]) for trace in panel["data"] if "z" in trace and "x" in trace), default=0
    )
    return max(PANEL_INCHES, 2 + FIELD_INCHES * columns)


def _encoded(drawing: "Drawing", form: Format) -> bytes:
    file = BytesIO()
    # The date would make every file a new one.
    metadata = {"Date": None} if form == "svg" else None
    drawing.savefig(file, format=form, dpi=DOTS_PER_INCH, metadata=metadata)
    return file.getvalue()


def _draw_panel(axis: "Axes", panel: Figure) -> None:
    layout = panel["layout"]
    for trace in panel["data"]:
        {"scatter": _scatter, "heatmap": _heatmap}[trace["type"]](axis, trace)
    for shape in layout.get("shapes", ()):
        axis.axvspan(shape["x0"], shape["x1"], color=_colour(shape["fillcolor"]), zorder=0)
    for name, described in (("x", layout.get("xaxis", {})), ("y", layout.get("yaxis", {}))):
        _axis(axis, name, described)


def _axis(axis: "Axes", name: str, described: Trace) -> None:
    axis.set(**{f"{name}label": _plain(described.get("title", {}).get("text", ""))})
    if "tickvals" in described:
        axis.set(**{f"{name}ticks": described["tickvals"]})
    if "ticktext" in described:
        axis.set(**{f"{name}ticklabels": described["ticktext"]})
    if "range" in described:
        axis.set(**{f"{name}lim": described["range"]})
    if described.get("rangemode") == "tozero":
        axis.set(**{f"{name}lim": (0, None)})
    if described.get("autorange") == "reversed" and not axis.yaxis_inverted():
        axis.invert_yaxis()


def _scatter(axis: "Axes", trace: Trace) -> None:
    line, marker = trace.get("line", {}), trace.get("marker", {})
    axis.errorbar(
        [_plain(x) for x in trace["x"]],
        [_plain(y) for y in trace["y"]],
        yerr=trace["error_y"]["array"] if "error_y" in trace else None,
        label=_plain(trace.get("name", "")) or None,
        color=_colour(line.get("color") or marker["color"]),
        linestyle=DASHES[line["dash"]] if "lines" in trace["mode"] else "none",
        linewidth=line.get("width", 2) * 0.75,
        drawstyle="steps-post" if line.get("shape") == "hv" else None,
        marker=MARKERS[marker["symbol"]] if "markers" in trace["mode"] else None,
        markersize=marker.get("size", 8) * 0.6,
        elinewidth=1,
    )


def _heatmap(axis: "Axes", trace: Trace) -> None:
    values = np.array(trace["z"], dtype=np.float64)
    shape: Literal["auto", "equal"] = (
        "auto" if "x" in trace else "equal"
    )  # Fields of a table, or patches of a picture.
    picture = axis.imshow(
        values, vmin=trace["zmin"], vmax=trace["zmax"], cmap=_colour_map(trace), aspect=shape
    )
    for ticks, names in ((axis.set_xticks, trace.get("x")), (axis.set_yticks, trace.get("y"))):
        ticks(range(len(names)), [_plain(name) for name in names]) if names else ticks([])
    if any(len(str(name)) > 4 for name in trace.get("x", ())):
        axis.tick_params("x", rotation=90)
    for place, words in np.ndenumerate(_words(trace)):
        light = _is_light(float(values[place]), trace)
        axis.text(
            place[1], place[0], words, ha="center", va="center", color="k" if light else "w", size=7
        )
    axis.figure.colorbar(picture, ax=axis, ticks=[trace["zmin"], trace["zmax"]])


def _is_light(value: float, trace: Trace) -> bool:
    """Tell whether a field of a heat map is bright, as dark text needs it."""
    if trace["zmin"] < 0:
        return abs(value) < 0.8
    upper_half = value > (trace["zmin"] + trace["zmax"]) / 2
    return bool(upper_half != trace.get("reversescale", False))


def _words(trace: Trace) -> np.ndarray:
    """Return what stands in each field of a heat map."""
    if trace.get("texttemplate") == "%{text}":
        return np.array(trace["text"])
    if "texttemplate" not in trace:
        return np.empty((0, 0))
    form = trace["texttemplate"].removeprefix("%{z:").removesuffix("}")
    return np.array([["" if z is None else format(z, form) for z in row] for row in trace["z"]])


def _colour_map(trace: Trace) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    scale = trace["colorscale"]
    if isinstance(scale, str):
        return scale.lower() + ("_r" if trace.get("reversescale") else "")
    return LinearSegmentedColormap.from_list("report", [(place, c) for place, c in scale])


def _legend(drawing: "Drawing", columns: int) -> None:
    """Name every method once, below all panels."""
    entries: dict[str, Artist] = {}
    for axis in drawing.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        drawing.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
        )


def _colour(colour: str) -> str:
    return THEME.get(colour, colour)


def _plain(text: Any) -> Any:
    """Return text as matplotlib takes it: neither markup nor mathematics."""
    return unescape(text).replace("$", r"\$") if isinstance(text, str) else text
