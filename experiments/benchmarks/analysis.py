"""What the analysis costs: time of its metrics, size of artifacts, memory, and bytes that are read.

    python experiments/benchmarks/analysis.py

Parts, each in a process of its own:

- speed: metrics over plain loops over the images, with Python's sets or scikit-learn, in CPU time
  of one thread. scikit-learn takes a tenth of the images; its time is scaled up.
- size: artifacts as they lie in the store, and the same facts as JSON, indented by four and nested
  by image and stage, as the published study has it.
- memory: two cells of many images, with features of four blocks, kept patches and groups: the most
  that the processes hold that load them and that compare them on everything, what they share
  included.
- reads: how many bytes of artifacts are read when more and more cells are compared, all pairs.

Writes `analysis.json` and `analysis.md` into the output folder and prints the table.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.results import environment, line, option_parser, write

ROOT = Path(__file__).parents[2]
CHILD = "from experiments.benchmarks.analysis_parts import main; main()"
PARTS = ("speed", "size", "memory", "reads")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    rows: list[dict[str, object]] = []
    for part in options.parts:
        for row in measured(part, options):
            if not rows:
                print(line(row), flush=True)
            print(line(row.values()), flush=True)
            rows.append(row)
    write(options.out, "analysis", rows, environment(options))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", default=PARTS, choices=PARTS)
    add("--images", type=int, default=5000, help="for speed and size")
    add("--many-images", type=int, default=50_000, help="for memory")
    add("--features", type=int, default=768)
    add("--cells", type=int, nargs="+", default=[4, 8, 16], help="for reads")
    return parser.parse_args(arguments)


def measured(part: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """Measure a part in a process of its own and return its rows."""
    plain = {name: value for name, value in vars(options).items() if name != "out"}
    ended = subprocess.run(  # noqa: S603 - It is this package's own.
        [sys.executable, "-c", CHILD, part, json.dumps(plain)],
        check=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
    )
    rows: list[dict[str, object]] = json.loads(ended.stdout)
    return rows


if __name__ == "__main__":
    main()
