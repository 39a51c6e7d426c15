"""One launch of a study from its options to its exit status."""

from contextlib import suppress
from functools import partial

from rich.console import Console

from orchestrator.commands.verify import repair_cells
from orchestrator.console import command_line, line
from orchestrator.interrupts import Interrupts
from orchestrator.launch import Launch
from orchestrator.provenance import provenance
from orchestrator.store.driver_lock import driving
from orchestrator.store.saving import saved_in_words
from orchestrator.store.searches import write_searches
from orchestrator.store.stored_cell import CellState
from orchestrator.store.verified import Verified
from orchestrator.study.estimates import Estimates
from orchestrator.study.reuse import left_for_this_study, take_over_cells
from orchestrator.study.selection import Options, Selection, select, with_teachers
from orchestrator.watching.launch_context import LaunchContext
from orchestrator.watching.progress import Progress
from trainables.storage.retry import patience

ALL_DONE, SOME_FAILED, INTERRUPTED = 0, 1, 130


def run_study(options: Options, console: Console) -> int:
    """Do what is left of a study and return the exit status.

    Raises:
        UserError: The options, the study or the environment cannot be used as they are.
    """
    say = partial(line, console)
    with patience(say):
        selection = select(options)
        estimates = _preflight(selection, options, console)
    store = selection.store
    interrupts = Interrupts(store.stop_file)
    succeeded = True
    with driving(store.path, say, interrupts.lose), interrupts.handled(), patience(say):
        document = selection.study.model_dump(mode="json") | provenance()
        store.create(document, selection.cells, selection.searches.trials)
        write_searches(store, selection.searches.all)
        verified = Verified(store.path)
        damaged = _repair(selection, verified, console)
        if _take_over(selection, options, verified, console) or damaged:
            selection = with_teachers(selection, options)
            estimates = _preflight(selection, options, console)
        for note in selection.notes():
            say(note)
        states = {cell.id: selection.stored(cell).state() for cell in selection.selected}
        progress = Progress(
            console,
            selection.study.name,
            states,
            estimates.macs,
            driver=store.driver(),
            quiet=options.quiet,
        )
        try:
            with progress, patience(progress.note):
                context = LaunchContext(progress, interrupts)
                succeeded = Launch(selection, options, estimates, context, verified).run()
        except KeyboardInterrupt:
            interrupts.requested = True
        with (
            patience(seconds=0),
            suppress(OSError),
        ):  # The next launch can read files again.
            verified.save()
    status = _conclude(selection, options, interrupts, console)
    return status if succeeded else status or SOME_FAILED


def _preflight(selection: Selection, options: Options, console: Console) -> Estimates:
    """Find now what would go wrong later; return what each unfinished cell will take."""
    if not {"train", "evaluate"} & set(options.phases):
        return Estimates()
    if "train" in options.phases:
        selection = left_for_this_study(selection)
    if not selection.unfinished():
        return Estimates()
    from orchestrator.study.preflight import preflight  # Imports torch and timm.

    return preflight(selection, options, console)


def _repair(selection: Selection, verified: Verified, console: Console) -> bool:
    """Remove and name the damaged files of the store; return whether there were any."""
    cells = [*selection.cells, *selection.searches.trials]
    damaged = repair_cells(selection.store, cells, verified, console)
    verified.save()
    for error in damaged:
        line(console, f"{error}; it will be made again")
    return bool(damaged)


def _take_over(
    selection: Selection, options: Options, verified: Verified, console: Console
) -> bool:
    """Take over what other studies have trained; return whether that changes what is left."""
    if "train" not in options.phases:
        return False
    return take_over_cells(selection, verified, partial(line, console))


def _conclude(
    selection: Selection, options: Options, interrupts: Interrupts, console: Console
) -> int:
    store = selection.store
    states = [(cell, cell.state()) for cell in map(selection.stored, selection.selected)]
    failed = [cell for cell, state in states if state is CellState.FAILED]
    known = {cell.id for cell in (*selection.cells, *selection.searches.trials)}
    others = set(store.found_ids()) - known
    if others:
        line(
            console,
            f"{len(others)} cells in {store.path} are no longer in the study; their files are kept",
        )
    for cell in failed:
        line(console, f"failed: {cell.id}: {cell.reason()} (see {cell.error_file})")
    done = sum(state is CellState.DONE for _, state in states)
    line(
        console, f"{selection.study.name}: {done} of {len(states)} cells done, {len(failed)} failed"
    )
    if interrupts.lost_to:
        line(console, f"{interrupts.lost_to} now runs {store.path}; this run has stopped")
        return INTERRUPTED
    if interrupts.requested:
        saved = saved_in_words(map(selection.stored, selection.selected))
        line(console, f"interrupted; {saved}. Resume with: {command_line()}")
        return INTERRUPTED
    if store.report.exists():
        line(console, f"report: {store.report}")
    complete = done == len(states) or not {"train", "evaluate"} <= set(options.phases)
    return ALL_DONE if complete and not failed else SOME_FAILED
