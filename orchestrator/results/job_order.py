"""The order of comparisons: few cells' arrays are wanted at once, and few are read again.

A cell stays in memory from the first to the last of some jobs that follow each other. Where all
arrays of a study do not fit, a cell has several stays and is read once for each.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from orchestrator.results.cached_comparisons import ComparisonJob

Stay = tuple[str, int]
"""Id of a cell, and which of its stays."""
Sizes = Mapping[str, float]
"""Bytes of each cell's arrays, by its id."""


class PlacedJob(NamedTuple):
    """A job in its place."""

    job: ComparisonJob
    stays: tuple[Stay, ...]
    """Of each of its cells."""


def in_order(to_do: Sequence[ComparisonJob], sizes: Sizes, bound: float) -> list[PlacedJob]:
    """Order jobs so that the cells that stay at once are no larger than a bound.

    The next cell to come is always that with most jobs among those that are there; where there
    is no room, those leave that have fewest jobs with it. Room for one more cell is left, so
    that it is read while the last jobs of another end.

    Args:
        to_do: The jobs.
        sizes: Bytes of each cell of theirs.
        bound: Bytes; never less than two cells take.
    """
    return list(_Plan(to_do, sizes, room(sizes, bound)).steps())


def room(sizes: Sizes, bound: float) -> float:
    """Return the bytes that may stay while another cell is read."""
    largest = sorted(sizes.values())[-2:]
    return max(bound - max(largest, default=0.0), sum(largest))


class _Plan:
    def __init__(self, to_do: Sequence[ComparisonJob], sizes: Sizes, most: float) -> None:
        self._sizes, self._most = sizes, most
        self._left: dict[str, list[ComparisonJob]] = defaultdict(list)
        for job in to_do:
            for cell in job.cells:
                self._left[cell.cell_id].append(job)
        self._here: dict[str, int] = {}
        """Cells that stay -> which of their stays it is."""
        self._stays: Counter[str] = Counter()

    def steps(self) -> Iterator[PlacedJob]:
        while any(self._left.values()):
            coming = self._next()
            self._make_room(coming)
            self._here[coming] = self._stays[coming]
            self._stays[coming] += 1
            for job in [job for job in self._left[coming] if self._is_here(job)]:
                for cell in job.cells:
                    self._left[cell.cell_id].remove(job)
                yield PlacedJob(job, tuple((c.cell_id, self._here[c.cell_id]) for c in job.cells))
            for cell_id in [cell_id for cell_id in self._here if not self._left[cell_id]]:
                del self._here[cell_id]

    def _next(self) -> str:
        """Return the cell that has most jobs with those that are here, or else any."""
        waiting = Counter(
            cell.cell_id
            for here in self._here
            for job in self._left[here]
            for cell in job.cells
            if cell.cell_id not in self._here
        )
        if waiting:
            return waiting.most_common(1)[0][0]
        return next(cell_id for cell_id, jobs in self._left.items() if jobs)

    def _jobs_of(self, one: str, other: str) -> int:
        return sum({one, other} == {c.cell_id for c in job.cells} for job in self._left[one])

    def _is_here(self, job: ComparisonJob) -> bool:
        return all(cell.cell_id in self._here for cell in job.cells)

    def _make_room(self, coming: str) -> None:
        """Let those leave that have fewest jobs with a cell, and of these fewest at all."""
        while self._here and sum(map(self._sizes.__getitem__, [*self._here, coming])) > self._most:
            leaving = min(
                self._here,
                key=lambda here: (self._jobs_of(here, coming), len(self._left[here])),
            )
            del self._here[leaving]


class Stays:
    """Which cells are wanted while jobs run, several at a time and ending in any order.

    Args:
        steps: All jobs, in order.
        sizes: Bytes of each cell.
        bound: Bytes that are wanted at once at most, if two cells take no more.

    Attributes:
        wanted: Bytes of the cells that are wanted now.
    """

    def __init__(self, steps: Sequence[PlacedJob], sizes: Sizes, bound: float) -> None:
        self.wanted = 0.0
        self._sizes, self._bound = sizes, max(bound, room(sizes, bound))
        self._jobs = Counter(stay for step in steps for stay in step.stays)
        self._here: set[Stay] = set()
        self._running = 0

    def fits(self, step: PlacedJob) -> bool:
        """Tell whether a job can begin without too much being wanted."""
        more = sum(self._sizes[cell_id] for cell_id, _ in self._new(step))
        return not self._running or self.wanted + more <= self._bound

    def begin(self, step: PlacedJob) -> list[Stay]:
        """Begin a job; return the stays that begin with it."""
        new = self._new(step)
        self._here.update(new)
        self._running += 1
        self.wanted += sum(self._sizes[cell_id] for cell_id, _ in new)
        return new

    def end(self, step: PlacedJob) -> list[Stay]:
        """End a job; return the stays that end with it."""
        self._jobs.subtract(step.stays)
        over = [stay for stay in step.stays if not self._jobs[stay]]
        self._here.difference_update(over)
        self._running -= 1
        self.wanted -= sum(self._sizes[cell_id] for cell_id, _ in over)
        return over

    def _new(self, step: PlacedJob) -> list[Stay]:
        return [stay for stay in step.stays if stay not in self._here]
