"""Compare the speed of every method in two checkouts of this project.

    git worktree add ../before d57c929
    python experiments/benchmarks/two_checkouts.py ../before --threads 2

A process of each checkout takes turns with that of the other, one forward pass a turn, so that what
else the machine does meets both alike; every other round begins with the other. While one computes,
the other waits for a line on its standard input. Weights and images are random, seeded and the same
in both. The ratio is the median over the rounds of (time there / time here), with its quartiles:
above 1 this checkout is faster. On a busy machine the ratio of the least times tells more.

Methods that only this checkout has are left out. Writes `two_checkouts.json` and `.md` into the
output folder and prints the table.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from experiments.benchmarks.results import environment, line, option_parser, write
from reduction.timing import Quartiles

ROOT = Path(__file__).parents[2]
WORKER = """
import sys, time, timm, torch, reduction
host, batch, rate, threads, clock = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(0)
vit = timm.create_model(host).eval()
images = torch.randn(int(batch), 3, *vit.patch_embed.img_size)
print(*reduction.METHODS, flush=True)
method, now = None, {"wall": time.perf_counter, "cpu": time.process_time}[clock]
with torch.inference_mode():
    for line in sys.stdin:
        if line.strip() != method:
            method = line.strip()
            keep = 1.0 if method == "deit" else float(rate)
            model = reduction.reduce(vit, method, keep_rate=keep)
            model(images)
        start = now()
        model(images)
        print(now() - start, flush=True)
"""
"""What runs in each checkout; it uses nothing that an old one does not have."""


@dataclass(frozen=True, kw_only=True)
class RatioRow:
    """One method there against here."""

    method: str
    there_ms: float
    """Median milliseconds of a pass."""
    here_ms: float
    low: float
    ratio: float
    high: float
    least: float
    """Ratio of the least times."""


class Worker:
    """A process of a checkout that runs one pass whenever it is asked to."""

    def __init__(self, process: "subprocess.Popen[str]", out: IO[str], to: IO[str]) -> None:
        self._process, self._out, self._to = process, out, to
        self.methods = out.readline().split()

    @classmethod
    @contextmanager
    def start(cls, checkout: Path, arguments: Sequence[str]) -> Iterator[Self]:
        """Start the worker of a checkout, and end it."""
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_WAIT_POLICY": "PASSIVE"}
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", WORKER, *arguments],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            yield cls(process, process.stdout, process.stdin)
            process.stdin.close()

    def seconds(self, method: str) -> float:
        """Return how long one pass takes."""
        print(method, file=self._to, flush=True)
        answer = self._out.readline()
        if not answer:
            raise SystemExit(f"the worker ended with status {self._process.wait()}")
        return float(answer)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare what the command line asks for."""
    options = parse(arguments)
    given = [options.host, options.batch_size, options.keep_rate, options.threads, options.clock]
    names = [str(value) for value in given]
    rows = []
    with (
        Worker.start(options.there.resolve(), names) as there,
        Worker.start(ROOT, names) as here,
    ):
        for method in options.methods or [name for name in here.methods if name in there.methods]:
            rows.append(compare(there, here, method, options.repeats))
            print(line(asdict(rows[-1]).values()), flush=True)
    options.there = str(options.there)
    write(options.out, "two_checkouts", [asdict(row) for row in rows], environment(options))


def compare(there: Worker, here: Worker, method: str, rounds: int) -> RatioRow:
    """Take turns; the first round, which warms up, does not count."""
    times = [_turns(there, here, method, number % 2 == 1) for number in range(rounds + 1)][1:]
    ratios = Quartiles.of([before / after for before, after in times])
    befores, afters = zip(*times, strict=True)
    return RatioRow(
        method=method,
        there_ms=1000 * Quartiles.of(befores).median,
        here_ms=1000 * Quartiles.of(afters).median,
        low=ratios.low,
        ratio=ratios.median,
        high=ratios.high,
        least=min(befores) / min(afters),
    )


def _turns(there: Worker, here: Worker, method: str, swapped: bool) -> tuple[float, float]:
    """Return the seconds of a pass there and of one here, which is the first if `swapped`."""
    if swapped:
        after = here.seconds(method)
        return there.seconds(method), after
    return there.seconds(method), here.seconds(method)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(
        __doc__, host="deit_small_patch16_224", batch_size=4, repeats=15, threads=2, clock="wall"
    )
    parser.add_argument("there", type=Path, help="folder of the other checkout")
    parser.add_argument("--keep-rate", type=float, default=0.5)
    parser.add_argument("--methods", nargs="+", help="None: all that both have")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
