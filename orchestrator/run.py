"""One launch of a study: find out what is left to do, do it, and say how it stands."""

from contextlib import suppress
from functools import partial

from rich.console import Console

from orchestrator.cluster.ray_setup import prepare_ray
from orchestrator.command import command_line
from orchestrator.forecast import Forecast
from orchestrator.interrupts import Interrupts
from orchestrator.provenance import provenance
from orchestrator.selection import Options, Selection, select, with_teachers
from orchestrator.storage.driver_lock import driving
from orchestrator.storage.repairing import repair_cells
from orchestrator.storage.store import CellState
from orchestrator.storage.taking_over import left_for_this_study, take_over_cells
from orchestrator.storage.verified import Verified
from orchestrator.watching.progress import Progress, Sink
from orchestrator.watching.status import keep_status
from orchestrator.work import left_to_do, refresh_report
from trainables.patience import patience

ALL_DONE, SOME_FAILED, INTERRUPTED = 0, 1, 130
STATUS_SECONDS = 15.0


def run_study(options: Options, console: Console) -> int:
    """Bring a study as far as it will go and return the exit status.

    Raises:
        UserError: Something in the options, the study or the environment has to be mended first.
    """
    say = partial(_say, console)
    with patience(say):
        selection = select(options)
        forecast = _preflight(selection, options, console)
    store = selection.store
    interrupts = Interrupts(store.stop_file)
    compared = True
    with driving(store.path, say, interrupts.lose), interrupts.handled(), patience(say):
        store.create(selection.study.model_dump(mode="json") | provenance(), selection.cells)
        verified = Verified(store.path)
        damaged = _repair(selection, verified, console)
        if _take_over(selection, options, verified, console) or damaged:
            selection = with_teachers(selection, options)
            forecast = _preflight(selection, options, console)
        for note in selection.notes():
            say(note)
        states = {cell.id: selection.stored(cell).state() for cell in selection.selected}
        progress = Progress(
            console,
            selection.study.name,
            states,
            forecast.macs,
            driver=store.driver(),
            quiet=options.quiet,
        )
        try:
            with progress, patience(progress.note):
                compared = _do_stages(selection, options, forecast, interrupts, progress, verified)
        except KeyboardInterrupt:
            interrupts.requested = True
        with patience(seconds=0), suppress(OSError):  # Files are only read again then.
            verified.save()
    status = _conclude(selection, options, interrupts, console)
    return status if compared else status or SOME_FAILED


def _do_stages(
    selection: Selection,
    options: Options,
    forecast: Forecast,
    interrupts: Interrupts,
    progress: Progress,
    verified: Verified,
) -> bool:
    """Do what is left; tell whether the comparisons, if any, succeeded."""
    compared = True
    work = left_to_do(selection, options, progress.note)
    # Where nothing is left to do, the status of the last launch that did something stays.
    kept = Sink("the status", partial(keep_status, selection.store), STATUS_SECONDS)
    with progress.telling(*[kept] if work else []):
        if work:
            address = prepare_ray(options.address)
            from orchestrator.launch import Launch  # Imports Ray, which a finished study needs not.

            launch = Launch(selection, options, work, forecast, interrupts, progress, verified)
            compared = launch.go(address)
        if "report" in options.stages and not interrupts.requested:
            refresh_report(
                selection, options.data, progress.note, progress.draw, lambda: interrupts.requested
            )
    return compared


def _preflight(selection: Selection, options: Options, console: Console) -> Forecast:
    """Say now what would go wrong later; return what each unfinished cell will take."""
    if not {"train", "evaluate"} & set(options.stages):
        return Forecast()
    if "train" in options.stages:
        selection = left_for_this_study(selection)
    if not selection.unfinished():
        return Forecast()
    from orchestrator.preflight import preflight  # Imports torch and timm.

    return preflight(selection, options, console)


def _repair(selection: Selection, verified: Verified, console: Console) -> bool:
    """Remove and name whatever is damaged in the store; tell whether there was any."""
    damaged = repair_cells(selection.store, selection.cells, verified, console)
    verified.save()
    for error in damaged:
        _say(console, f"{error}; it is made again")
    return bool(damaged)


def _take_over(
    selection: Selection, options: Options, verified: Verified, console: Console
) -> bool:
    """Take over what other studies have trained; tell whether the selection has to be made anew."""
    if "train" not in options.stages:
        return False
    return take_over_cells(selection, verified, lambda line: _say(console, line))


def _conclude(
    selection: Selection, options: Options, interrupts: Interrupts, console: Console
) -> int:
    store = selection.store
    states = [(cell, cell.state()) for cell in map(selection.stored, selection.selected)]
    failed = [cell for cell, state in states if state is CellState.FAILED]
    others = set(store.found_ids()) - {cell.id for cell in selection.cells}
    if others:
        _say(console, f"{len(others)} cells in {store.path} are no longer in the study; left alone")
    for cell in failed:
        _say(console, f"failed: {cell.id}: {cell.reason()} (see {cell.error_file})")
    done = sum(state is CellState.DONE for _, state in states)
    _say(
        console, f"{selection.study.name}: {done} of {len(states)} cells done, {len(failed)} failed"
    )
    if interrupts.lost_to:
        _say(console, f"{interrupts.lost_to} has taken {store.path} over; this run has stopped")
        return INTERRUPTED
    if interrupts.requested:
        _say(console, f"interrupted; everything is saved. Resume with: {command_line()}")
        return INTERRUPTED
    if store.report.exists():
        _say(console, f"report: {store.report}")
    complete = done == len(states) or not {"train", "evaluate"} <= set(options.stages)
    return ALL_DONE if complete and not failed else SOME_FAILED


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
