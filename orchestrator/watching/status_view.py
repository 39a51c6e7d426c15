"""How a status looks: a screen of facts on a terminal, one line a minute elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.console import line
from orchestrator.watching.status import LaunchFacts, RunningCell, Status, TimeLeft

DRAW_SECONDS = 0.5
WATCH_SECONDS = 2.0
QUIET_SECONDS = 60.0
ROWS_SHOWN = 12
"""Of each kind of thing, on a screen that is drawn again and again."""


class Screen:
    """Shows a status again and again: in place on a terminal, as a line a minute elsewhere.

    Args:
        console: Where to draw.
        quiet: Show nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live: Live | None = None
        self._due = time.monotonic()

    def __enter__(self) -> Self:
        self._due = time.monotonic() + QUIET_SECONDS
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
            self._due = time.monotonic()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the live view and leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    @property
    def due(self) -> bool:
        """Whether it is time to show how things stand."""
        return not self._quiet and time.monotonic() >= self._due

    def show(self, status: Status) -> None:
        """Show how things stand now."""
        if self._live is not None:
            self._due = time.monotonic() + DRAW_SECONDS
            self._live.update(status_view(status, rows=ROWS_SHOWN), refresh=True)
            return
        self._due = time.monotonic() + QUIET_SECONDS
        for text in (headline(status), *_preparations(status)):
            line(self._console, text)


def follow(read: Callable[[], Status], console: Console) -> None:
    """Show how a study stands until Ctrl-C, whoever runs it.

    Args:
        read: Finds out how it stands.
        console: Where to show it.
    """
    with suppress(KeyboardInterrupt), Screen(console) as screen:
        screen.show(read())
        while True:
            time.sleep(WATCH_SECONDS)
            if screen.due:
                screen.show(read())


def status_view(status: Status, rows: int | None = None) -> Group:
    """Return all of a status; of each kind of line no more than `rows`, where that is given."""
    waiting = [f"{count} waiting for {cell}" for cell, count in status.waiting.items()]
    below = [
        *_first(waiting, rows),
        *_preparations(status),
        *_first([f"retried: {c.cell}: {c.reason}" for c in status.retried], rows),
        *_first([f"failed: {c.cell}: {c.reason} (see {c.see})" for c in status.failed], rows),
        *_first([f"gentler: {c.cell}: {c.reason}" for c in status.gentler], rows),
    ]
    table = [_table(status.running[:rows])] if status.running else []
    # Texts, not markup: reasons may hold brackets.
    return Group(*map(Text, (headline(status), *_where(status))), *table, *map(Text, below))


def headline(status: Status) -> str:
    """Return how a study stands, in one line."""
    counts = ", ".join(f"{count} {state}" for state, count in status.states.items())
    parts = [f"{status.study}: {sum(status.states.values())} cells: {counts}"]
    if status.images_per_second:
        parts.append(f"{status.images_per_second:,.0f} images/s")
    if status.driver and status.launch:
        parts += _pace(status.launch)
        if status.fill is not None:
            parts.append(f"{status.fill:.0%} of the {_unit(status)} reserved")
        parts.append(f"{_duration(status.launch.seconds)} so far")
    if status.left:
        parts.append(_left_in_words(status.left))
    return " · ".join(parts)


def _where(status: Status) -> Iterator[str]:
    """Yield who runs the study, on what, and how the launch went."""
    yield f"run by {status.driver}" if status.driver else "no driver runs it"
    if status.others:
        yield f"{status.others} other cells of the study are not part of this launch"
    cluster, launch = status.cluster, status.launch
    if launch and not status.driver:
        ended = max(0.0, status.time - launch.began - launch.seconds)
        parts = [f"the last launch was last heard of {_duration(ended)} ago"]
        parts += [f"after {_duration(launch.seconds)}", *_pace(launch)]
        yield ", ".join([*parts, *_troubles(status)])
    if cluster and status.driver:
        gpus = f"{status.reserved_gpus:g} of {cluster.gpus:g} GPUs" if cluster.gpus else "no GPUs"
        cpus = f"{status.reserved_cpus:g} of {cluster.cpus:g} CPUs"
        nodes = f"{cluster.nodes} node{'s' if cluster.nodes != 1 else ''}"
        yield ", ".join([f"{nodes}, reserved: {gpus}, {cpus}", *_troubles(status)])


def _pace(launch: LaunchFacts) -> list[str]:
    if not launch.trained:
        return []
    pace = launch.cells_per_hour
    return [f"{launch.trained} trained, {pace:{',.0f' if pace >= 10 else '.1f'}} cells/h"]


def _troubles(status: Status) -> list[str]:
    retries = status.launch.retries if status.launch else 0
    lost = status.cluster.nodes_lost if status.cluster else 0
    counts = ((retries, "retry", "retries"), (lost, "node lost", "nodes lost"))
    return [f"{count} {one if count == 1 else more}" for count, one, more in counts if count]


def _table(running: Sequence[RunningCell]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("cell", "epoch", "loss", "metric", "images/s", "data wait", "reserved", "node"):
        left = column in ("cell", "node")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for cell in running:
        table.add_row(cell.cell, *_progress(cell), _reserved(cell), cell.node or "")
    return table


def _progress(cell: RunningCell) -> tuple[str, ...]:
    if cell.epoch is None:
        return "starting", "", "", "", ""
    return (
        f"{cell.epoch:.1f}/{cell.epochs}",
        f"{cell.loss:.3f}" if cell.loss is not None else "",
        f"{cell.metric} {cell.accuracy:.1f} %" if cell.accuracy is not None else "",
        f"{cell.images_per_second or 0.0:,.0f}",
        f"{cell.data_wait or 0.0:.0%}",
    )


def _reserved(cell: RunningCell) -> str:
    return f"{cell.gpus:.3g} GPU" if cell.gpus else f"{cell.cpus:.3g} CPU"


def _preparations(status: Status) -> list[str]:
    """Return what running cells do before they train, each once, and what is done with all."""
    words = list(dict.fromkeys(cell.preparing for cell in status.running))
    if status.comparing:
        done, of = status.comparing
        words.append(f"comparing: {done:,} of {of:,} steps")
    if status.drawing:
        what, done, of = status.drawing
        words.append(f"{what}: {done:,} of {of:,}")
    return list(filter(None, words))


def _left_in_words(left: TimeLeft) -> str:
    if left.low is None or left.high is None:
        return f"about {_duration(left.seconds)} left, a guess from few cells"
    interval = f"{_duration(left.low)} to {_duration(left.high)}"
    return f"about {_duration(left.seconds)} left ({interval})"


def _unit(status: Status) -> str:
    return "GPUs" if status.cluster and status.cluster.gpus else "CPUs"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _first(lines: list[str], rows: int | None) -> list[str]:
    further = len(lines) - rows if rows else 0
    return [*lines[:rows], f"and {further} more"] if further > 0 else lines
