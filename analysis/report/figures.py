"""The figures of a page, which are also written to files of their own."""

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from types import ModuleType

from analysis import overlays
from analysis.report import drawing, markup, mosaic, style
from analysis.report.charts import Figure
from analysis.report.drawing import Format, draw
from analysis.report.mosaic import Mosaic
from reduction import painting

DRAWING: tuple[ModuleType, ...] = (drawing, mosaic, overlays, painting, style)
"""What decides how a given figure looks."""


@dataclass(frozen=True)
class Panels:
    """Figures by title, which are side by side in one file."""

    panels: Mapping[str, Figure]

    def draw(self) -> Mapping[Format, bytes]:
        """Return the file of each format."""
        return draw(self.panels)


Drawable = Panels | Mosaic


class Figures:
    """Collects the figures of a page under names of their own."""

    def __init__(self) -> None:
        self.drawables: dict[str, Drawable] = {}
        """Each is to be drawn, by the name of its files without their endings."""

    def add(self, name: str, figure: Drawable) -> None:
        """Take a figure without showing it."""
        self.drawables[_file_name(name)] = figure

    def shown(self, name: str, panels: Mapping[str, Figure], width: float = 20) -> str:
        """Take figures by title and return them side by side as HTML; see `markup.panels`."""
        self.add(name, Panels(panels))
        return markup.panels([markup.chart(plot, title) for title, plot in panels.items()], width)


def files(named: tuple[str, Drawable]) -> dict[str, bytes]:
    """Draw a figure, given with its name, in every format; return its files by their names."""
    name, figure = named
    return {f"{name}.{form}": content for form, content in figure.draw().items()}


def source(figure: Drawable) -> bytes:
    """Return all that a figure's files depend on: what it shows, and what draws it."""
    return json.dumps([asdict(figure), _drawing_code()], sort_keys=True).encode()


@cache
def _drawing_code() -> list[str]:
    return [version("matplotlib"), *map(inspect.getsource, DRAWING)]


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-.")
