"""Cached results of comparing cells, kept in the store so that nothing is compared twice.

A job describes a cell or compares a pair of cells. Its result is kept under a key that covers all
it depends on: the cells with their evaluations, what is compared, and the code that measures. So a
new evaluation of a cell invalidates only the jobs of that cell.
"""

import inspect
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

from analysis import answers, comparisons, features, intervals, patterns, records
from analysis import token_depth as tokens
from analysis.comparisons import KINDS, Comparison, Kind, pairs
from analysis.records import CellRecord
from trainables.storage import layout
from trainables.storage.files import (
    DamagedFileError,
    digest,
    read_sealed_json,
    write_sealed_json,
)
from trainables.storage.paths import StorePath

RESULTS_SAVE_SECONDS = 5.0
"""Seconds between two saves; a comparison that is killed loses no more."""

MEASURING: tuple[ModuleType, ...] = (
    *(answers, comparisons, features, intervals, patterns, records, tokens),
)
"""The code that determines the results for given arrays."""
ANSWERS = "answers"
"""Where a cell's job keeps what it answered, see `analysis.answers.Answers.as_row`."""

CellFacts = Mapping[str, Sequence[Any]]
"""Table -> what a job adds to it, as `measure` or `describe_tokens` returns it."""


@dataclass(frozen=True)
class ComparisonJob:
    """A cell to describe, or two to compare."""

    cells: tuple[CellRecord, ...]
    evaluations: tuple[str, ...]
    """What identifies the evaluation of each."""
    comparison: Comparison | None = None
    """What the pair differs in; None for a cell."""
    kinds: tuple[Kind, ...] = ()
    """Metrics to compute of a pair."""

    @property
    def name(self) -> str:
        """Description with the cells' ids."""
        return " with ".join(cell.cell_id for cell in self.cells)

    @property
    def file(self) -> str:
        """Id of the cell whose file keeps the result: the last of its cells."""
        return self.cells[-1].cell_id

    @cached_property
    def key(self) -> str:
        """Digest of all that the result depends on."""
        ids = [cell.cell_id for cell in self.cells]
        covered = [ids, self.evaluations, self.comparison, self.kinds, measuring()]
        return digest(json.dumps(covered).encode())


@cache
def measuring() -> str:
    """Return a digest of the code that measures."""
    return digest("".join(map(inspect.getsource, MEASURING)).encode())


def jobs(
    cells: Sequence[CellRecord],
    evaluations: Mapping[str, str],
    wanted: Sequence[Comparison],
    kinds: tuple[Kind, ...] = KINDS,
) -> list[ComparisonJob]:
    """Return all jobs: first those that describe a cell, then those that compare a pair.

    Args:
        cells: Evaluated cells.
        evaluations: What identifies the evaluation of each, by its id.
        wanted: Which pairs.
        kinds: Which metrics.
    """

    def of(comparison: Comparison, *pair: CellRecord) -> ComparisonJob:
        return ComparisonJob(pair, tuple(evaluations[c.cell_id] for c in pair), comparison, kinds)

    single = [ComparisonJob((cell,), (evaluations[cell.cell_id],)) for cell in cells]
    return single + [of(what, a, b) for what in wanted for a, b in pairs(cells, what)]


class CachedComparisons:
    """The findings of a study: a sealed file for each cell, and in it those of some of its jobs.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: StorePath) -> None:
        self._folder = folder
        self._files: dict[str, dict[str, CellFacts]] = {}
        """Cell id -> what its file holds, by the jobs' keys."""
        self._unsaved: set[str] = set()
        self._saved = -RESULTS_SAVE_SECONDS  # The first is kept at once.

    def read(self) -> list[DamagedFileError]:
        """Read all files; remove damaged ones and return what was wrong with them."""
        damaged = []
        for path in sorted(self._folder.glob(layout.COMPARISON.glob_in_folder)):
            try:
                record = read_sealed_json(path)
            except DamagedFileError as error:
                damaged.append(error)
                path.unlink(missing_ok=True)
            else:
                self._files[path.stem] = record["facts"] if record else {}
        return damaged

    def get(self, job: ComparisonJob) -> CellFacts | None:
        """Return the result of a job, None if it is still to be done."""
        return self._files.get(job.file, {}).get(job.key)

    def add(self, job: ComparisonJob, facts: CellFacts) -> None:
        """Add the result of a job; it is saved within `RESULTS_SAVE_SECONDS`."""
        self._files.setdefault(job.file, {})[job.key] = facts
        self._unsaved.add(job.file)
        if time.monotonic() - self._saved > RESULTS_SAVE_SECONDS:
            self.save()

    def answers_of(self, jobs: Iterable[ComparisonJob]) -> dict[str, answers.Answers]:
        """Return what the cells answered that some jobs have described, by their ids."""
        described = [job for job in jobs if job.comparison is None]
        rows = ((self.get(job) or {}).get(ANSWERS, ()) for job in described)
        return {
            job.cells[0].cell_id: answers.Answers.from_row(row)
            for job, of_cell in zip(described, rows, strict=True)
            for row in of_cell
        }

    def save(self) -> None:
        """Write the results that are not in the store yet."""
        for name in sorted(self._unsaved):
            write_sealed_json(self._file(name), {"facts": self._files[name]})
        self._unsaved.clear()
        self._saved = time.monotonic()

    def _file(self, cell_id: str) -> StorePath:
        return self._folder / layout.COMPARISON.name_in_folder(cell_id=cell_id)

    def keep_only(self, wanted: Iterable[ComparisonJob]) -> None:
        """Remove the results of other jobs, also from the store."""
        keys = {job.key for job in wanted}
        for name, facts in list(self._files.items()):
            kept = self._files[name] = {key: facts[key] for key in facts if key in keys}
            if not kept:
                del self._files[name]
                self._file(name).unlink(missing_ok=True)
            elif len(kept) < len(facts):
                self._unsaved.add(name)
        self.save()
