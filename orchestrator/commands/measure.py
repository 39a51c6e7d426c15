"""`tokensweep measure`: the speed of a study's models on the machine where it is typed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from orchestrator.console import line, work_shown
from orchestrator.errors import UserError
from orchestrator.results.speed_jobs import (
    SpeedJob,
    can_be_measured,
    configurations,
    measure_on,
    settings_of,
    update_speeds,
)
from orchestrator.store.measurements import Measurements
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import StoredCell
from trainables.measuring.measuring import Place
from trainables.measuring.surroundings import DeviceFacts, device_facts
from trainables.storage.files import DamagedFileError


@dataclass(frozen=True)
class MeasureOptions:
    """What is to be measured, and where."""

    device: str | None = None
    only: Sequence[str] = ()
    data: Path | None = None
    weights: Path | None = None


def measure_study(store: Store, options: MeasureOptions, console: Console) -> bool:
    """Measure what was not measured on this device yet, or was disturbed; update the tables.

    Args:
        store: The study's store.
        options: What to measure, and where.
        console: Where to show it.

    Returns:
        Whether all that was asked for is measured.

    Raises:
        UserError: There is no such device or cell.
    """
    say = partial(line, console)
    place = Place(_device(options.device), torch.get_num_threads(), options.weights)
    facts = device_facts(place.device, place.threads)
    wanted = _wanted(store, _selected(store, options.only), facts)
    ready = [job for job in wanted if can_be_measured(store, job.configuration)]
    say(f"{store.path}: {len(ready)} configurations to measure on {facts['device']}")
    failed = 0
    with work_shown(console) as show:
        for number, job in enumerate(ready):
            show("measuring speed", number, len(ready))
            failed += not _measured(store, job, options.data, place, say)
    for job in wanted:
        if job not in ready:
            say(f"{job.name}: not measured: its cell is not trained yet")
    if driver := store.driver():
        say(f"the study is run by {driver}; its tables have these once `measure` is typed again")
    else:
        update_speeds(store, [store.cell(cell_id) for cell_id in store.cell_ids()])
        say(f"{store.tables} is up to date; show it with: tokensweep report {store.path}")
    return not failed


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    allowed = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in [*allowed, *(["cuda"] if len(allowed) > 1 else [])]:
        raise UserError(f"--device is {name!r}, but must be one of: {', '.join(allowed)}")
    return torch.device(name)


def _selected(store: Store, only: Sequence[str]) -> list[StoredCell]:
    ids = store.cell_ids()
    found = [cell_id for cell_id in ids if not only or any(fnmatch(cell_id, g) for g in only)]
    if not found:
        asked = f"--only {' '.join(only)} matches" if only else f"{store.path} has"
        raise UserError(f"{asked} none of the {len(ids)} cells")
    return [store.cell(cell_id) for cell_id in found]


def _wanted(store: Store, cells: Sequence[StoredCell], facts: DeviceFacts) -> list[SpeedJob]:
    """Return what was not measured on a device yet, or was disturbed."""
    settings, known = settings_of(store), Measurements(store.measurements)
    jobs = []
    for configuration in configurations((cell.cell() for cell in cells), settings).values():
        found = known.on(configuration, facts)
        done = found.batch_sizes if found else {}
        missing = [s for s in settings.batch_sizes if s not in done or done[s]["disturbed"]]
        if missing:
            jobs.append(SpeedJob(configuration, tuple(missing), settings.effort))
    return jobs


def _measured(
    store: Store, job: SpeedJob, data: Path | None, place: Place, say: Callable[[str], None]
) -> bool:
    """Do a job; say why if that fails."""
    try:
        measure_on(store, job, data, place, by_study=False)
    except (RuntimeError, ValueError, OSError, DamagedFileError) as error:
        say(f"{job.name}: not measured: {(str(error).splitlines() or ['?'])[0][:200]}")
        return False
    return True
