"""What the benchmarks share: clocks, tables, and the record of what the numbers depend on."""

import argparse
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import timm
import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

SHARED: Mapping[str, Mapping[str, Any]] = {
    "batch_size": {"type": int},
    "cache": {"type": int, "help": "shorter side of an image in the cache"},
    "clock": {"choices": list(CLOCKS), "help": "cpu: CPU time of this process"},
    "device": {"help": "such as cuda"},
    "host": {"help": "a timm VisionTransformer"},
    "image_size": {"type": int, "help": "side of the model's input"},
    "images": {"type": int},
    "quality": {"type": int, "help": "of the JPEG files"},
    "repeats": {"type": int},
    "size": {"type": int, "nargs": 2, "metavar": ("WIDTH", "HEIGHT"), "help": "of a photograph"},
    "threads": {"type": int, "help": "CPU threads; None is torch's choice"},
}
"""Options that several benchmarks have, without their defaults."""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Prints a module's docstring as it is and every option's default."""


def option_parser(doc: str | None, **shared: Any) -> argparse.ArgumentParser:
    """Return a parser with `--out` and the shared options that are given a default."""
    made = argparse.ArgumentParser(description=doc, formatter_class=_Help)
    made.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder of results")
    for name, default in shared.items():
        made.add_argument(f"--{name.replace('_', '-')}", default=default, **SHARED[name])
    return made


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A row of a table of unlike things, each with its target."""

    measured: str
    value: float
    target: str
    """`at least ...`, or else what is not to be exceeded."""
    details: str


def environment(options: argparse.Namespace) -> dict[str, object]:
    """Return the options and what else the numbers depend on."""
    return {
        **{key: value for key, value in vars(options).items() if key != "out"},
        "command": command(),
        "kind": kind_of_machine(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


def command() -> str:
    """Return the command line of this process, but for where it writes."""
    arguments = [Path(sys.argv[0]).name, *sys.argv[1:]]
    if "--out" in arguments:
        place = arguments.index("--out")
        del arguments[place : place + 2]
    return shlex.join(["python", *arguments])


def kind_of_machine() -> str:
    """Return processor, cores and GPU: machines that have them in common compare."""
    names = re.findall(r"^model name\s*: (.*)$", _processors(), flags=re.MULTILINE)
    processor = names[0] if names else platform.processor() or platform.machine()
    gpus = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([processor, f"{len(os.sched_getaffinity(0))} cores", *gpus])


def _processors() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def write(folder: Path, name: str, rows: Sequence[Mapping[str, object]], about: Any) -> None:
    """Write rows of the same columns as NAME.json and as a Markdown table NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    record = json.dumps({"about": about, "rows": rows}, indent=1)
    (folder / f"{name}.json").write_text(f"{record}\n")
    columns = list(rows[0])
    table = [line(columns), line("---" for _ in columns), *(line(row.values()) for row in rows)]
    (folder / f"{name}.md").write_text("\n".join(table) + "\n")


def line(cells: Iterable[Any]) -> str:
    """Return a line of a Markdown table."""
    cells = ("" if cell is None else cell for cell in cells)
    texts = (f"{cell:.3g}" if isinstance(cell, float) and cell < 100 else cell for cell in cells)
    return f"| {' | '.join(f'{x:.0f}' if isinstance(x, float) else str(x) for x in texts)} |"
