"""Measure what the orchestrator costs: time, memory, writes, and slots that stand idle.

    python experiments/benchmarks/orchestrator.py

Cells of no work go the way of real ones, through study, store, search, observer and progress; only
in place of training they write what a training writes. Parts, each in processes of its own:

- grid: the training stage's time over that of plain Tune grids of as many trials, on as many CPUs
  as there are. Their trials write what cells of ours write, or do nothing; Tune logs every trial as
  CSV, JSON and for TensorBoard and saves the experiment's state, as it comes (our cells have CSV
  and TensorBoard logs), or does neither. All take turns; the medians of the ratios count. And by
  how much the driver's memory grows with every cell.
- slots: cells that wait for unequal times, on logical CPUs or GPUs. Counted is the share of the
  slots' time in which a cell was at work, from the moment when all slots were until the last cell
  began.
- restart: from the start of a finished study's launch to the end of its process, which imports no
  Ray.
- writes: the time that a cell's writes take, with weights as large as the demo's or those of
  DeiT-Tiny, over that of a cell which trains a minute, reports four times and ends two epochs.

Writes `orchestrator.json` and `orchestrator.md` into the output folder and prints the table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.benchmarks.results import Measurement, environment, line, option_parser, write

ROOT = Path(__file__).parents[2]
CHILD = "from experiments.benchmarks.launches import main; main()"
Facts = dict[str, Any]

MEGABYTES = {"the demo": 2.0, "DeiT-Tiny": 22.1}
"""Size of the weights."""
CELL_SECONDS = 60
AS_IT_COMES: Facts = {"writing": True, "logs": True}
BARE: tuple[Facts, ...] = (
    AS_IT_COMES,
    {"writing": True, "logs": False},
    {"writing": False, "logs": True},
    {"writing": False, "logs": False},
)
"""The plain grids; see `launches.bare`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    print(line(Measurement.__annotations__), flush=True)
    rows = []
    for part in options.parts:
        for row in PARTS[part](options):
            rows.append(asdict(row))
            print(line(rows[-1].values()), flush=True)
    write(options.out, "orchestrator", rows, environment(options))
    print(f"wrote orchestrator.json and orchestrator.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    add("--cells", type=int, default=600, help="of grid and restart")
    add("--repeats", type=int, default=3, help="of grid and restart")
    add("--slots", type=int, default=8)
    add("--waiting-cells", type=int, default=64, help="of slots")
    add("--seconds", type=float, nargs=2, default=[2, 8], metavar=("SHORTEST", "LONGEST"))
    return parser.parse_args(arguments)


def grid(options: argparse.Namespace) -> Iterator[Measurement]:
    """Compare the training stage with plain Tune grids, which take turns with it."""
    runs = [
        (
            child("ours", cells=options.cells),
            *(child("bare", cells=options.cells, **o) for o in BARE),
        )
        for _ in range(options.repeats)
    ]
    ours = [facts for facts, *_ in runs]
    for number, bare in enumerate(BARE, start=1):
        pairs = [(run[0], run[number]) for run in runs]
        each = ", ".join(f"{own['seconds']:.1f}/{plain['seconds']:.1f}" for own, plain in pairs)
        cpu = statistics.median(own["cpu"] / plain["cpu"] for own, plain in pairs)
        logs = "with" if bare["logs"] else "without"
        yield Measurement(
            measured=f"{options.cells} cells of no work over a plain grid of trials that "
            f"{'write the same' if bare['writing'] else 'do nothing'}, {logs} Tune's logs",
            value=statistics.median(own["seconds"] / plain["seconds"] for own, plain in pairs),
            target="at most 1.10" if bare == AS_IT_COMES else "",
            details=f"{ours[0]['ended']} trained; seconds: {each}; driver's CPU time: {cpu:.2f}",
        )
    yield Measurement(
        measured="growth of the driver's memory a cell, kB",
        value=statistics.median(facts["kb_per_cell"] for facts in ours),
        target="below 100",
        details=f"plain grid: {statistics.median(run[1]['kb_per_cell'] for run in runs):.0f}",
    )


def slots(options: argparse.Namespace) -> Iterator[Measurement]:
    """Count how much of the slots' time is used."""
    lengths = " ".join(map(str, options.seconds))
    for kind, gpu in (("CPUs", 0.0), ("GPUs", 1.0)):
        resources = json.dumps({"CPU": options.slots, "GPU": options.slots * gpu})
        facts = child(
            "slots",
            {"RAY_OVERRIDE_RESOURCES": resources, "TOKENSWEEP_BENCHMARK_SECONDS": lengths},
            cells=options.waiting_cells,
            gpu=gpu,
        )
        yield Measurement(
            measured=f"share of the time in which {options.slots} logical {kind} are busy",
            value=facts["busy"],
            target="at least 0.95",
            details=f"{facts['ended']} cells of {lengths.replace(' ', ' to ')} s "
            f"in {facts['processes']} processes",
        )


def restart(options: argparse.Namespace) -> Iterator[Measurement]:
    """Time the launch of a finished study."""
    facts = child("restart", cells=options.cells, repeats=options.repeats)
    yield Measurement(
        measured=f"re-run of a finished study of {options.cells} cells, s",
        value=facts["seconds"],
        target="at most 1.5",
        details=f"{facts['last_lines'][0]}; `import ray` alone: {facts['import_ray']:.2f}",
    )


def writes(options: argparse.Namespace) -> Iterator[Measurement]:
    """Time what a cell writes."""
    for model, megabytes in MEGABYTES.items():
        facts = [
            child("writes", megabytes=megabytes, epochs=2, reports=4)
            for _ in range(options.repeats)
        ]
        seconds = statistics.median(fact["seconds"] for fact in facts)
        yield Measurement(
            measured=f"writes of a one-minute cell of {model} over its time",
            value=seconds / CELL_SECONDS,
            target="below 0.01",
            details=f"{seconds:.3f} s, weights of {megabytes:g} MB",
        )


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Measurement]]] = {
    "grid": grid,
    "slots": slots,
    "restart": restart,
    "writes": writes,
}


def child(part: str, variables: dict[str, str] | None = None, **options: Any) -> Facts:
    """Measure in a process of its own, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "facts.json"
        ours = {
            # This very file must not be taken for the package of its name.
            "PYTHONPATH": str(ROOT),
            "PYTHONSAFEPATH": "1",
            # No cluster of this machine is to be joined.
            "RAY_TMPDIR": folder,
            "OMP_NUM_THREADS": "1",
            "TOKENSWEEP_DEVICE": "cpu",
        }
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-c", CHILD, part, str(output), json.dumps(options)]
        ended = subprocess.run(  # noqa: S603
            command,
            env=kept | ours | (variables or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        if not output.exists():
            raise RuntimeError(f"{part} failed:\n{ended.stderr[-3000:]}")
        facts: Facts = json.loads(output.read_text())
    return facts


if __name__ == "__main__":
    main()
