"""`tokensweep profile`: where the time of a cell's training goes, as a table and a chart."""

import io
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import ray
from rich.console import Console
from rich.table import Table

from orchestrator.cluster.connection import Cluster, connected
from orchestrator.errors import UserError
from orchestrator.packing.sharing import Reserved
from orchestrator.selection import Options, Selection, select
from orchestrator.storage.store import waits_for
from orchestrator.study import AUTO
from orchestrator.training.stage import Training
from trainables.cell import Cell
from trainables.files import write_atomic

if TYPE_CHECKING:
    from trainables.profiling import CellProfile, PartTime

REPORTS = 10
"""Steps that the driver asks for one by one, to see what asking takes."""
REPORT = "report by Ray"
COLUMNS = ("part", "ms", "every steps", "ms a step", "share", "")
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
        console.print(f"{cell.id}: {steps} steps, twice, on {cluster}", highlight=False)
        config = _trial_config(selection, cell, options, cluster)
        profile, overhead = _measured(config | _apart(Path(folder)), steps)
    parts = dict(profile.parts) | {REPORT: profile.report(overhead)}
    console.print(_table(parts), *_facts(profile), sep="\n", highlight=False)
    for name, content in _files(cell, profile, parts).items():
        write_atomic(to / name, content)
        console.print(f"wrote {to / name}", highlight=False, soft_wrap=True)


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
    selection: Selection, cell: Cell, options: Options, cluster: Cluster
) -> dict[str, Any]:
    """Return what the cell's trial would be given, alone on a whole GPU or on its CPUs."""
    asked = selection.study.reserved(cell.capacity)
    cpus = cluster.nodes[0][0] if asked.cpu == AUTO else float(asked.cpu)
    share = Reserved(cpu=cpus, gpu=1.0 if cluster.gpus and asked.gpu else 0.0, workers=1)
    training = Training(
        store=selection.store,
        cluster=cluster,
        reserved={cell.id: share},
        seconds={},
        macs={cell.id: 0.0},
        data=options.data,
        weights=options.weights,
        given_up_once=frozenset(),
        max_concurrent=None,
    )
    return training.trial_config(cell)


def _apart(folder: Path) -> dict[str, str]:
    """Return the settings that keep a trial out of its study's store."""
    return {"folder": str(folder / "cell"), "stop_file": str(folder / "stop")}


def _measured(config: dict[str, Any], steps: int) -> "tuple[CellProfile, float]":
    """Return where the time goes, and the seconds that a report to the driver takes."""
    from trainables.profiling import ProfiledTrainable

    needs = {"num_cpus": config["cpu"], "num_gpus": config["gpu"]}
    trial = ray.remote(**needs)(ProfiledTrainable).remote(config)
    profile = ray.get(trial.profile.remote(steps))
    overheads = []
    for _ in range(REPORTS):
        began = time.perf_counter()
        seconds = ray.get(trial.train.remote())["seconds"]
        overheads.append(time.perf_counter() - began - seconds)
    ray.get(trial.stop.remote())
    return profile, median(overheads)


def _table(parts: "Mapping[str, PartTime]") -> Table:
    """Return what each part takes, the most time-consuming first, with a bar as its chart."""
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
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
