"""The figures of a page, which are also written to files of their own."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from analysis.report import markup
from analysis.report.charts import Figure
from analysis.report.drawing import Format, draw


class Figures:
    """Collects the figures of a page under names of their own."""

    def __init__(self) -> None:
        self._figures: dict[str, Callable[[], Mapping[Format, bytes]]] = {}

    def add(self, name: str, panels: Mapping[str, Figure]) -> None:
        """Take figures by title, which are side by side in one file, without showing them."""
        self.add_drawn(name, partial(draw, panels))

    def add_drawn(self, name: str, draw: Callable[[], Mapping[Format, bytes]]) -> None:
        """Take a figure that is drawn in a way of its own; `draw` returns each format's file."""
        self._figures[_file_name(name)] = draw

    def shown(self, name: str, panels: Mapping[str, Figure], width: float = 20) -> str:
        """Take figures by title and return them side by side as HTML; see `markup.panels`."""
        self.add(name, panels)
        return markup.panels([markup.chart(plot, title) for title, plot in panels.items()], width)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Draw every figure in every format; yield the files' names and contents."""
        for name, draw_figure in self._figures.items():
            for form, content in draw_figure().items():
                yield f"{name}.{form}", content


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-.")
