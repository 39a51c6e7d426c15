"""What comparing the published study wants in memory at once, and what a pair of cells costs.

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.comparing_order

Parts:

- order: all comparisons of the study in the order in which they are done, several at a time and
  ending in any order, with the sizes that the cells' arrays would have: the most that is wanted at
  once, and how often a cell is read.
- pairs: CPU time of comparing two cells of each width on everything, with what each says by
  itself gathered in every pair, as it was, and once for all pairs of a cell, by turns; and what
  that makes of all pairs of the study.

Writes `comparing_order.json` and `comparing_order.md` into the output folder and prints the table.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.comparisons import Kind, measure
from analysis.records import CellArtifacts, CellRecord
from experiments.benchmarks.analysis_parts import RECORD, features_of, patterns_of
from experiments.benchmarks.results import environment, line, option_parser, write
from orchestrator.results.cached_comparisons import ComparisonJob, jobs
from orchestrator.results.comparing import COMPARED
from orchestrator.results.job_order import PlacedJob, Sizes, Stays, in_order
from orchestrator.study.expansion import expand
from orchestrator.study.study import load_study
from reduction import METHODS, has_fixed_budget

WIDTHS = {"tiny": 192, "small": 384, "base": 768}
"""Features of each capacity."""
IMAGES = 50_000
PATTERN_OF: dict[Kind, str] = {"pruning": "kept", "merging": "groups"}
"""What both cells must have to be compared."""
PATTERNS = 1600
"""Bytes of kept patches and groups an image."""
IN_FLIGHT = 2
"""Jobs at a time for each CPU."""


@dataclass(frozen=True)
class Replay:
    """What came of doing all jobs in order."""

    wanted: float
    """Most bytes at once."""
    reads: int
    """How often a cell was read."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = option_parser(__doc__, images=IMAGES, repeats=2)
    parser.add_argument("--parts", nargs="+", default=["order", "pairs"])
    parser.add_argument("--bounds", type=float, nargs="+", default=[2, 5, 10, 40], help="GB")
    parser.add_argument("--cpus", type=int, default=16)
    options = parser.parse_args(arguments)
    records = records_of("paper")
    work = jobs(records, {record.cell_id: "" for record in records}, COMPARED)
    rows: list[dict[str, object]] = []
    if "order" in options.parts:
        sizes = {record.cell_id: array_bytes(record, options.images) for record in records}
        rows += [_order(work, sizes, 1e9 * bound, options.cpus) for bound in options.bounds]
    if "pairs" in options.parts:
        rows += pairs(work, options.images, options.repeats)
    for row in rows:
        print(line(row.values()), flush=True)
    write(options.out, "comparing_order", rows, environment(options))


def records_of(study: str) -> list[CellRecord]:
    """Return a study's cells, as if all were evaluated."""
    return [
        CellRecord(
            cell_id=cell.id, dataset=cell.dataset, method=cell.method, capacity=cell.capacity,
            family=METHODS[cell.method].family, keep_rate=cell.keep_rate or 1.0,
            stages=cell.reduction_loc, seed=cell.seed, state="done",
            meets_every_rate=not has_fixed_budget(cell.method, cell.options),
        )
        for cell in expand(load_study(study))
    ]  # fmt: skip


def array_bytes(record: CellRecord, images: int) -> float:
    """Return the bytes of a cell's arrays: features of four blocks with their moments, patterns."""
    width = WIDTHS[record.capacity]
    blocks = len(record.stages) + 1
    return blocks * (images * width * 4 + 8 * width**2) + images * PATTERNS


def _order(
    work: Sequence[ComparisonJob], sizes: Sizes, bound: float, cpus: int
) -> dict[str, object]:
    began = time.process_time()
    steps = in_order(work, sizes, bound)
    seconds = time.process_time() - began
    found = replay(steps, sizes, bound, cpus * IN_FLIGHT)
    pairs = sum(job.comparison is not None for job in work)
    return {
        "measured": f"arrays wanted at once, GB, bound {bound / 1e9:g}",
        "value": f"{found.wanted / 1e9:.1f}",
        "target": f"at most {bound / 1e9:g}",
        "run": f"{pairs} pairs of {len(sizes)} cells, each read {found.reads / len(sizes):.1f} "
        f"times; ordered in {seconds:.1f} s",
    }


def replay(steps: Sequence[PlacedJob], sizes: Sizes, bound: float, at_once: int) -> Replay:
    """Do jobs in order, so many at once, of which the next to end is drawn at random."""
    random = np.random.default_rng(0)
    stays = Stays(steps, sizes, bound)
    running: list[PlacedJob] = []
    most, reads = 0.0, 0
    for step in steps:
        while len(running) == at_once or not stays.fits(step):
            stays.end(running.pop(random.integers(len(running))))
        reads += len(stays.begin(step))
        running.append(step)
        most = max(most, stays.wanted)
    return Replay(most, reads)


def pairs(work: Sequence[ComparisonJob], images: int, repeats: int) -> Iterator[dict[str, object]]:
    """Yield what a pair costs in each pattern and at each width, and all pairs of the study."""
    both = [job.cells for job in work if job.comparison is not None]
    cells = Counter(job.cells[0].capacity for job in work if job.comparison is None)
    total = 0.0
    for kind, pattern in PATTERN_OF.items():
        having = sum(all(pattern in METHODS[of.method].patterns for of in pair) for pair in both)
        seconds = pattern_seconds(kind, images, repeats)
        total += seconds * having
        yield {
            "measured": f"CPU seconds of a pair, {kind}",
            "value": f"{seconds:.2f}",
            "target": "",
            "run": f"{having} of {len(both)} pairs; {images} images",
        }
    for capacity, width in WIDTHS.items():
        anew, once, own = features_seconds(width, images, repeats)
        total += once * sum(a.capacity == capacity for a, _ in both) + own * cells[capacity]
        yield {
            "measured": f"CPU seconds of a pair, {width} features",
            "value": f"{once:.2f}",
            "target": f"below {anew:.2f}",
            "run": f"{anew:.2f} gathered anew; {own:.2f} once a cell; {images} images",
        }
    yield {
        "measured": "CPU hours of all pairs",
        "value": f"{total / 3600:.1f}",
        "target": "at most 6",
        "run": f"{len(both)} pairs; each cell read once",
    }


def pattern_seconds(kind: Kind, images: int, repeats: int) -> float:
    """Return the least CPU seconds of comparing kept patches or groups of a pair."""
    a, b = (CellArtifacts(RECORD, patterns_of(images, seed), {}) for seed in (0, 1))
    return min(_seconds(lambda: measure(a, b, [kind])) for _ in range(repeats))


def features_seconds(width: int, images: int, repeats: int) -> tuple[float, float, float]:
    """Return the least CPU seconds of a pair, with and without own moments, and of those."""
    a, b = (
        CellArtifacts(RECORD, _places(images), features_of(images, width, seed)) for seed in (0, 1)
    )
    ready_a, ready_b = a.with_moments(), b.with_moments()
    works = {
        "anew": lambda: measure(a, b, ["features"]),
        "once": lambda: measure(ready_a, ready_b, ["features"]),
        "own": a.with_moments,
    }
    turns = [{name: _seconds(work) for name, work in works.items()} for _ in range(repeats)]
    anew, once, own = (min(turn[name] for turn in turns) for name in works)
    return anew, once, own


def _places(images: int) -> dict[str, np.ndarray]:
    return {"image": np.arange(images), "grid": np.array([14, 14])}


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
