"""Where datasets lie, and how far work on them is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def dataset_root(name: str, data: Path | None) -> Path | None:
    """Return the folder of one dataset: `DATA/NAME` where it exists, else `DATA` itself."""
    if data is None:
        return None
    return data / name if (data / name).is_dir() else data


@contextmanager
def work_shown(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Return a function to tell what is done, how many of its parts are, and how many there are.

    It shows a bar on a terminal and a line for each kind of work elsewhere, until the block ends.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    bar = Progress(*columns, *times, console=console, transient=True, disable=hidden)
    task = bar.add_task("")
    told: set[str] = set()

    def show(what: str, done: int, total: int) -> None:
        if hidden and what not in told:
            console.print(what, markup=False, highlight=False, soft_wrap=True)
        told.add(what)
        bar.update(task, description=what, completed=done, total=total)
        bar.start()

    try:
        yield show
    finally:
        bar.stop()
