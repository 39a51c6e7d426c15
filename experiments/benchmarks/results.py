"""What the benchmarks share: clocks, tables, and the record of what the numbers depend on."""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL
import timm
import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options and what else the numbers depend on."""
    return {
        **{key: value for key, value in vars(options).items() if key != "out"},
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


def write(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], about: Any) -> None:
    """Write rows of the same columns as NAME.json and as a Markdown table NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    record = json.dumps({"about": about, "rows": rows}, indent=1)
    (folder / f"{name}.json").write_text(f"{record}\n")
    columns = list(rows[0])
    table = [line(columns), line("---" for _ in columns), *(line(row.values()) for row in rows)]
    (folder / f"{name}.md").write_text("\n".join(table) + "\n")


def line(cells: Iterable[Any]) -> str:
    """Return a line of a Markdown table."""
    texts = (f"{cell:.3g}" if isinstance(cell, float) and cell < 100 else cell for cell in cells)
    return f"| {' | '.join(f'{x:.0f}' if isinstance(x, float) else str(x) for x in texts)} |"
