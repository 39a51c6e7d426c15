"""How far the reading of a dataset's folder is: a bar on a terminal, lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trainables.data.reading import ReadingProgress


@contextmanager
def reading_shown(console: Console) -> Iterator[ReadingProgress]:
    """Return a function that shows how far a reading is; nothing is shown until it is called."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = not console.is_terminal
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden)
    task = bar.add_task("")
    told: set[str] = set()

    def show(what: str, done: int, total: int) -> None:
        if hidden and what not in told:
            console.print(f"reading {what}", markup=False, highlight=False, soft_wrap=True)
        told.add(what)
        bar.start()
        bar.update(task, description=f"reading {what}", completed=done, total=total)

    try:
        yield show
    finally:
        bar.stop()
