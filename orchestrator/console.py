"""What commands share: the console, its lines and bars, where parts report, the command line."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PIPED_WIDTH = 10_000
"""Columns of output that is no terminal's; rich would fold it at 80."""


def new_console() -> Console:
    """Return a console that prints text as it is: nothing in it is markup, nothing is coloured.

    A pipe or file gets each row of a table on one line, so that `grep` finds whole ids.
    """
    width = None if sys.stdout and sys.stdout.isatty() else PIPED_WIDTH
    return Console(markup=False, highlight=False, width=width)


def line(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is, on any console, and leave long lines for the terminal to fold."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def command_line(*options: str) -> str:
    """Return what started this process, with further options that it did not have."""
    python, here = Path(sys.executable), Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    further = [option for option in options if option not in sys.argv]
    return shlex.join([str(shown), *sys.argv, *further])


def dataset_root(name: str, data: Path | None) -> Path | None:
    """Return the folder of one dataset: `DATA/NAME` where it exists, else `DATA` itself.

    That of `folder.birds` is `DATA/birds`.
    """
    if data is None:
        return None
    inside = data / (name.partition(".")[2] or name)
    return inside if inside.is_dir() else data


@contextmanager
def work_shown(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Return a function to tell what is done, how many of its parts are, and how many there are.

    It shows a bar on a terminal and a line for each kind of work elsewhere, until the block ends.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    bar = Progress(*columns, *times, console=console, transient=True, disable=hidden)
    task = bar.add_task("")
    told: set[str] = set()

    def show(what: str, done: int, total: int) -> None:
        if hidden and what not in told:
            line(console, what)
        told.add(what)
        bar.update(task, description=what, completed=done, total=total)
        bar.start()

    try:
        yield show
    finally:
        bar.stop()


class Context(Protocol):
    """What the parts of a launch, or of a command, report to and ask."""

    @property
    def stopping(self) -> bool:
        """Whether to save what is done and return."""

    def note(self, text: str) -> None:
        """Print a line that stays."""

    def compare(self, done: int, total: int) -> None:
        """Show how many steps of comparing are done, of how many."""

    def draw(self, what: str, done: int, total: int) -> None:
        """Show how far the report is: what is being done, how many parts are, of how many."""


def _show_nothing(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class ConsoleContext:
    """The context of a command that runs until it is done or killed."""

    console: Console
    show: Callable[[str, int, int], None] = field(default=_show_nothing)
    """Shows what is being done, how many parts are, and of how many; see `work_shown`."""

    @property
    def stopping(self) -> bool:
        """Never."""
        return False

    def note(self, text: str) -> None:
        """Print a line."""
        line(self.console, text)

    def compare(self, done: int, total: int) -> None:
        """Show how far comparing is."""
        self.show("comparing", done, total)

    def draw(self, what: str, done: int, total: int) -> None:
        """Show how far the report is."""
        self.show(what, done, total)
