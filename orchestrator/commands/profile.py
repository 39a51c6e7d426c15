"""`tokensweep profile`: measure where the time of a cell's training goes."""

import io
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import ray
from rich.console import Console
from rich.table import Table

from orchestrator.cluster.connection import Cluster, connected
from orchestrator.console import line
from orchestrator.errors import UserError
from orchestrator.store.store import waits_for
from orchestrator.study.selection import Options, Selection, select
from orchestrator.study.study import AUTO
from orchestrator.training.experiment import trial_config
from orchestrator.training.shares import Reservation
from trainables.cell.cell import Cell
from trainables.storage.files import write_atomic
from trainables.trial.config import TrialConfig

if TYPE_CHECKING:
    from trainables.trial.profiling import CellProfile, PartTime

REPORTS = 10
"""Steps that the driver asks for one by one, to see what asking takes."""
REPORT = "report by Ray"
PROFILE_COLUMNS = ("part", "ms", "every steps", "ms a step", "share", "")
BAR = 24
"""Characters of the longest bar."""


def profile_cell(
    options: Options, address: str | None, steps: int, to: Path, console: Console
) -> None:
    """Measure the one cell that the options select; print a table, write a chart and the numbers.

    Args:
        options: Which cell, and where its data are. Nothing is read from or written to a store
            but the weights of its teacher.
        address: What `prepare_ray` returned.
        steps: Optimiser steps to measure, each way.
        to: Folder for the chart and the numbers.
        console: Where to tell it.

    Raises:
        UserError: Not one cell is selected, or its teacher is not trained.
    """
    selection = select(options)
    cell = _only_cell(selection)
    with (
        connected(address, verbose=options.verbose) as cluster,
        tempfile.TemporaryDirectory() as folder,
    ):
        line(console, f"{cell.id}: {steps} steps, twice, on {cluster}")
        config = _trial_config(selection, cell, options, cluster, Path(folder))
        profile, overhead = _measured(config, steps)
    parts = dict(profile.parts) | {REPORT: profile.report(overhead)}
    console.print(_table(parts))
    for fact in _facts(profile):
        line(console, fact)
    for name, content in _files(cell, profile, parts).items():
        write_atomic(to / name, content)
        line(console, f"wrote {to / name}")


def _only_cell(selection: Selection) -> Cell:
    if len(selection.selected) > 1:
        ids = ", ".join(cell.id for cell in selection.selected[:3])
        raise UserError(
            f"CELL matches {len(selection.selected)} cells ({ids}, ...), but must match one"
        )
    (cell,) = selection.selected
    if waits_for(selection.store, cell):
        raise UserError(f"the teacher of {cell.id} is not trained; train {cell.prerequisite} first")
    return cell


def _trial_config(
    selection: Selection, cell: Cell, options: Options, cluster: Cluster, folder: Path
) -> TrialConfig:
    """Return the configuration of a trial that has a whole GPU or its CPUs, and its own folder."""
    asked = selection.study.reserved(cell.capacity)
    cpus = cluster.nodes[0][0] if asked.cpu == AUTO else float(asked.cpu)
    config = trial_config(
        cell,
        store=selection.store,
        cluster=cluster,
        reserved=Reservation(cpu=cpus, gpu=1.0 if cluster.gpus and asked.gpu else 0.0, workers=1),
        data=options.data,
        weights=options.weights,
    )
    return replace(config, folder=str(folder / "cell"), stop_file=str(folder / "stop"))


def _measured(config: TrialConfig, steps: int) -> "tuple[CellProfile, float]":
    """Return where the time goes, and the seconds that a report to the driver takes."""
    from trainables.trial.profiling import ProfiledTrainable

    actor = ray.remote(num_cpus=config.cpu, num_gpus=config.gpu)(ProfiledTrainable)
    trial = actor.remote(config.to_dict())
    profile = ray.get(trial.profile.remote(steps))
    overheads = []
    for _ in range(REPORTS):
        began = time.perf_counter()
        ray.get(trial.train.remote())
        seconds = time.perf_counter() - began
        overheads.append(seconds - ray.get(trial.seconds.remote()))
    ray.get(trial.stop.remote())
    return profile, median(overheads)


def _table(parts: "Mapping[str, PartTime]") -> Table:
    """Return what each part takes, the most time-consuming first, with a bar as its chart."""
    table = Table(box=None, pad_edge=False)
    for column in PROFILE_COLUMNS:
        table.add_column(
            column, justify="left" if column in ("part", "") else "right", no_wrap=True
        )
    total = sum(part.seconds_a_step for part in parts.values())
    for name, part in _by_time(parts):
        share = part.seconds_a_step / total
        table.add_row(
            name,
            f"{part.seconds * 1e3:.2f}",
            f"{part.steps:,.4g}",
            f"{part.seconds_a_step * 1e3:.2f}",
            f"{share:.1%}",
            "█" * round(BAR * share),
        )
    return table


def _facts(profile: "CellProfile") -> list[str]:
    return [
        f"{profile.images_per_second:,.1f} images/s, {profile.images_a_step} images a step, in "
        f"{profile.precision} on {profile.device} with {profile.threads} threads; evaluations and "
        "checkpoints left out",
        f"model FLOP utilisation {profile.utilisation:.1%}: {profile.macs_per_second / 1e9:,.1f} "
        f"of {profile.peak_macs_per_second / 1e9:,.1f} GMACs/s, which a large matrix product "
        "reaches here",
    ]


def _files(cell: Cell, profile: "CellProfile", parts: "Mapping[str, PartTime]") -> dict[str, bytes]:
    facts = asdict(profile) | {"cell": cell.id, "utilisation": profile.utilisation}
    facts["parts"] = {name: asdict(part) for name, part in parts.items()}
    return {
        f"{cell.id}.json": f"{json.dumps(facts, indent=1)}\n".encode(),
        f"{cell.id}.svg": _chart(cell.id, parts),
    }


def _chart(title: str, parts: "Mapping[str, PartTime]") -> bytes:
    """Draw the milliseconds that each part adds to a step as an SVG file."""
    from matplotlib.figure import Figure  # Takes a second.

    names, times = zip(*reversed(_by_time(parts)), strict=True)
    drawing = Figure(figsize=(7, 0.4 * len(names) + 1), layout="constrained")
    axes = drawing.subplots()
    bars = axes.barh(names, [part.seconds_a_step * 1e3 for part in times], color="#0072b2")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(title=title, xlabel="ms a step")
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    drawing.savefig(file, format="svg")
    return file.getvalue()


def _by_time(parts: "Mapping[str, PartTime]") -> "list[tuple[str, PartTime]]":
    return sorted(parts.items(), key=lambda named: -named[1].seconds_a_step)
