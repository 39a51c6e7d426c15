"""Compare the speed of every method in two checkouts of this project.

    git worktree add ../before d57c929
    python experiments/benchmarks/two_checkouts.py ../before --threads 2
    git worktree add --detach ../same HEAD
    python experiments/benchmarks/two_checkouts.py ../same --threads 2

A process of each checkout takes turns with that of the other, one forward pass a turn, so that what
else the machine does meets both alike; every other round begins with the other. While one computes,
the other waits for a line on its standard input. Weights and images are random, seeded and the same
in both. A process is faster or slower than another of the same code, by up to a tenth and for as
long as it lives, so several pairs of processes are started, and every other pair starts here first.
The ratio of a pair is the median over the rounds of (time there / time here); the table has the
median of the pairs and their quartiles: above 1 this checkout is faster. Believe no difference that
the second comparison above, of the same code, shows as well.

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
from itertools import chain
from pathlib import Path
from statistics import median
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


Turns = Sequence[tuple[float, float]]
"""Seconds of a pass there and of one here, by rounds."""


@dataclass(frozen=True, kw_only=True)
class RatioRow:
    """One method there against here."""

    method: str
    there_ms: float
    """Median milliseconds of a pass."""
    here_ms: float
    low: float
    ratio: float
    """Median over pairs of processes, `low` and `high` its quartiles."""
    high: float
    least: float
    """Ratio of the least times."""

    @classmethod
    def of(cls, method: str, pairs: Sequence[Turns]) -> Self:
        """Summarise what pairs of processes took."""
        each = [median([before / after for before, after in rounds]) for rounds in pairs]
        ratios = Quartiles.of(each)
        befores, afters = zip(*chain.from_iterable(pairs), strict=True)
        return cls(
            method=method,
            there_ms=1000 * median(befores),
            here_ms=1000 * median(afters),
            low=ratios.low,
            ratio=ratios.median,
            high=ratios.high,
            least=min(befores) / min(afters),
        )


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
    pairs = []
    for number in range(options.pairs):
        print(f"pair of processes {number + 1} of {options.pairs}", flush=True)
        with started(options.there.resolve(), names, swapped=number % 2 == 1) as (there, here):
            methods = options.methods or [name for name in here.methods if name in there.methods]
            pairs.append([turns(there, here, name, options.repeats) for name in methods])
    of_methods = zip(methods, zip(*pairs, strict=True), strict=True)
    rows = [RatioRow.of(name, its_pairs) for name, its_pairs in of_methods]
    for row in rows:
        print(line(asdict(row).values()))
    options.there = str(options.there)
    write(options.out, "two_checkouts", [asdict(row) for row in rows], environment(options))


@contextmanager
def started(
    checkout: Path, arguments: Sequence[str], swapped: bool
) -> Iterator[tuple[Worker, Worker]]:
    """Start the workers there and here, here first if `swapped`."""
    folders = [ROOT, checkout] if swapped else [checkout, ROOT]
    with Worker.start(folders[0], arguments) as one, Worker.start(folders[1], arguments) as other:
        yield (other, one) if swapped else (one, other)


def turns(there: Worker, here: Worker, method: str, rounds: int) -> Turns:
    """Take turns; the first round, which warms up, does not count."""
    return [_turn(there, here, method, number % 2 == 1) for number in range(rounds + 1)][1:]


def _turn(there: Worker, here: Worker, method: str, swapped: bool) -> tuple[float, float]:
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
    parser.add_argument("--pairs", type=int, default=9, help="pairs of processes, at least 2")
    parser.add_argument("--keep-rate", type=float, default=0.5)
    parser.add_argument("--methods", nargs="+", help="None: all that both have")
    options = parser.parse_args(arguments)
    if options.pairs < 2:
        parser.error(f"argument --pairs: {options.pairs} is given, at least 2 are needed")
    return options


if __name__ == "__main__":
    main()
