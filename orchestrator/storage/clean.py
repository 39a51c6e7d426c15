"""`tokensweep clean`: show what can go, ask, remove it, and say what that freed."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from orchestrator.errors import UserError
from orchestrator.storage.cleaning import Cleaning, Removal, remove
from orchestrator.storage.disk_use import stored_file
from orchestrator.storage.driver_lock import driving
from orchestrator.storage.store import Store
from trainables.data.stale import Stale, stale_caches, stale_indices

ROWS_SHOWN = 30


@dataclass(frozen=True)
class Wanted:
    """What `clean` was asked to remove."""

    failed: bool
    orphans: bool
    keep_best: bool


def clean_study(store: Store, wanted: Wanted, console: Console, *, yes: bool) -> None:
    """Remove what is wanted, once that is confirmed.

    Raises:
        UserError: A driver runs the study, nothing is named, or there is nobody to ask.
    """
    if not (wanted.failed or wanted.orphans or wanted.keep_best):
        raise UserError("clean needs at least one of --failed, --orphans and --keep-best")

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with driving(store.path, say, lambda holder: None):
        cleaning = Cleaning(store)
        plan = list(_distinct(_plan(store, cleaning, wanted)))
        if plan:
            console.print(_table(plan))
        for name in cleaning.unknown:
            say(f"left alone, for tokensweep does not know it: {name}")
        if not plan:
            say("nothing to remove")
        elif _confirmed(plan, yes):
            for removal in plan:
                remove(removal)
            say(f"removed {_amount(plan)}")
        else:
            say("nothing was removed")


def _plan(store: Store, cleaning: Cleaning, wanted: Wanted) -> Iterator[Removal]:
    if wanted.failed:
        yield from cleaning.failed()
    if wanted.orphans:
        yield from cleaning.orphans()
        yield from map(_beside_the_study, stale_indices(store.datasets))
        yield from map(_beside_the_study, stale_caches())
    if wanted.keep_best:
        yield from cleaning.keep_best()


def _beside_the_study(stale: Stale) -> Removal:
    files = tuple(stored_file(file) for file in stale.files if file.exists())
    return Removal(str(stale.path), stale.reason, files, stale.path.parent)


def _distinct(removals: Iterable[Removal]) -> Iterator[Removal]:
    """Yield the removals, each file in the first one that names it only."""
    seen: set[object] = set()
    for removal in removals:
        files = tuple(file for file in removal.files if file.path not in seen)
        seen.update(file.path for file in files)
        if files:
            yield replace(removal, files=files)


def _table(plan: list[Removal]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for removal in plan[:ROWS_SHOWN]:
        amount = f"{len(removal.files)} files, {decimal(removal.frees)}"
        table.add_row(removal.what, removal.reason, amount)
    if len(plan) > ROWS_SHOWN:
        table.add_row(f"and {len(plan) - ROWS_SHOWN} more", "", "")
    return table


def _amount(plan: list[Removal]) -> str:
    files = sum(len(removal.files) for removal in plan)
    return f"{files} files, which frees {decimal(sum(removal.frees for removal in plan))}"


def _confirmed(plan: list[Removal], yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(
            f"nothing was removed: there is no terminal to ask on; with --yes clean removes "
            f"{_amount(plan)}"
        )
    return typer.confirm(f"remove {_amount(plan)}?")
