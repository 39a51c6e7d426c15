"""All benchmarks, each compared with its last run on the same kind of machine.

    make bench
    python experiments/benchmarks/suite.py --areas speed input

Every area is a script of this folder with settings that take minutes; each writes AREA.json and
AREA.md into the output folder. What was there before from the same kind of machine (processor,
cores, GPU) and by the same command is the last run: what is more than a tenth worse is marked.
On a machine that others use, too, look at such a mark twice.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from experiments.benchmarks.results import line, option_parser

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TOLERATED = 0.1
"""Share by which a value may be worse than the last one without being marked."""

SAME = ("kind", "command")
"""What two runs must have in common to be compared."""

Row = Mapping[str, str | float]


class Record(TypedDict):
    """What a benchmark writes."""

    about: Mapping[str, object]
    """Machine, versions and command."""
    rows: Sequence[Row]


@dataclass(frozen=True)
class Area:
    """A benchmark, and what of its table is compared."""

    arguments: str
    value: str = "value"
    keys: tuple[str, ...] = ("measured",)
    """Columns that say what a row is."""
    higher_is_better: bool | None = True
    """None: the row's target tells."""


AREAS = {
    "speed": Area(
        "--threads 1 --clock cpu --batch-size 8 --keep-rates 0.5 --repeats 3",
        "efficiency",
        ("method", "keep_rate"),
    ),
    "input": Area("--repeats 3", "images_per_second", ("augmentation", "images", "processes")),
    "data_wait": Area("", higher_is_better=False),
    "shared_input": Area("--repeats 3", "work", ("cells", "shared"), higher_is_better=False),
    "training": Area("--threads 1 --clock cpu --batch-size 8 --repeats 3", higher_is_better=None),
    "masked_attention": Area("--threads 1 --clock cpu", higher_is_better=None),
    "sharing": Area(""),
    "packing": Area("", "ratio", ("GPUs",), higher_is_better=False),
    "analysis": Area("", higher_is_better=None),
    "orchestrator": Area("", higher_is_better=None),
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A value beside that of the last run."""

    area: str
    measured: str
    value: float
    last: float | None
    """None: there is no last run of this kind."""
    mark: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = parse(arguments)
    changes: list[Change] = []
    for name in options.areas:
        last = read(options.out / f"{name}.json")
        print(f"{name} ...", flush=True)
        run(name, options.out)
        changes += compare(name, read(options.out / f"{name}.json"), last)
    table = [line(Change.__annotations__), line("---" for _ in Change.__annotations__)]
    table += [line(asdict(change).values()) for change in changes]
    (options.out / "suite.md").write_text("\n".join(table) + "\n")
    print(*table, f"wrote suite.md into {options.out}", sep="\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(__doc__)
    add = parser.add_argument
    add("--areas", nargs="+", default=list(AREAS), choices=list(AREAS))
    return parser.parse_args(arguments)


def read(path: Path) -> Record | None:
    """Return what a benchmark wrote, None where it has not run yet."""
    if not path.is_file():
        return None
    record: Record = json.loads(path.read_text())
    return record


def run(name: str, out: Path) -> None:
    """Run a benchmark, its output shown as it comes.

    Raises:
        SystemExit: It failed.
    """
    arguments = [*AREAS[name].arguments.split(), "--out", str(out)]
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    # The folder of a script hides modules whose names its files have.
    environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, check=False)  # noqa: S603
    if ended.returncode:
        sys.exit(f"{name} failed with status {ended.returncode}; the areas before it are recorded")


def compare(name: str, record: Record | None, last: Record | None) -> Iterator[Change]:
    """Yield every value of an area beside that of the last run, if that was of the same kind.

    Args:
        name: The area.
        record: What the benchmark has just written.
        last: What it wrote the time before, wherever that was.
    """
    area, rows = AREAS[name], record["rows"] if record else ()
    before = {}
    if record and last and all(record["about"][k] == last["about"].get(k) for k in SAME):
        before = {_key(area, row): float(row[area.value]) for row in last["rows"]}
    for row in rows:
        key, value = _key(area, row), float(row[area.value])
        mark = _mark(value, before.get(key), higher_is_better=_higher_is_better(area, row))
        yield Change(
            area=name, measured=", ".join(key), value=value, last=before.get(key), mark=mark
        )


def _key(area: Area, row: Row) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in area.keys)


def _higher_is_better(area: Area, row: Row) -> bool:
    if area.higher_is_better is not None:
        return area.higher_is_better
    return str(row["target"]).startswith("at least")


def _mark(value: float, last: float | None, *, higher_is_better: bool) -> str:
    """Return what to say of a value beside the last one."""
    if last is None:
        return "first run here"
    worse = last > value * (1 + TOLERATED) if higher_is_better else value > last * (1 + TOLERATED)
    return "WORSE" if worse else ""


if __name__ == "__main__":
    main()
