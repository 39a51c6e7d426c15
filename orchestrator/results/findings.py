"""What comparing cells has found so far, in the store, so that nothing is compared twice.

A job is a cell to describe or a pair of cells to compare. What it found is kept under a key that
covers all it depends on: the cells with their evaluations, what is compared, and the code that
measures. So a cell that is evaluated anew invalidates its own jobs alone.
"""

import inspect
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

from analysis import comparisons, features, patterns, records, tokens
from analysis.comparisons import KINDS, Comparison, Kind, pairs
from analysis.records import CellRecord
from trainables.files import (
    DamagedFileError,
    digest,
    read_sealed_json,
    write_sealed_json,
)
from trainables.store_path import StorePath

SAVE_SECONDS = 5.0
"""A comparison that is killed loses no more than what it found since."""

MEASURING: tuple[ModuleType, ...] = (comparisons, features, patterns, records, tokens)
"""What decides what is found in given arrays."""

Facts = Mapping[str, Sequence[Any]]
"""Table -> what a job adds to it, as `comparisons.measure` or `tokens.describe` returns it."""


@dataclass(frozen=True)
class Job:
    """A cell to describe, or two to compare."""

    cells: tuple[CellRecord, ...]
    evaluations: tuple[str, ...]
    """What identifies the evaluation of each."""
    comparison: Comparison | None = None
    """What a pair differs in; None for a cell."""
    kinds: tuple[Kind, ...] = ()
    """Which metrics of a pair."""

    @property
    def name(self) -> str:
        """The cells' ids, in words."""
        return " with ".join(cell.cell_id for cell in self.cells)

    @property
    def file(self) -> str:
        """Whose file keeps what it finds: that of the last of its cells."""
        return self.cells[-1].cell_id

    @cached_property
    def key(self) -> str:
        """What identifies all that the outcome depends on."""
        ids = [cell.cell_id for cell in self.cells]
        covered = [ids, self.evaluations, self.comparison, self.kinds, measuring()]
        return digest(json.dumps(covered).encode())


@cache
def measuring() -> str:
    """Return what identifies the code that measures."""
    return digest("".join(map(inspect.getsource, MEASURING)).encode())


def jobs(
    cells: Sequence[CellRecord],
    evaluations: Mapping[str, str],
    wanted: Sequence[Comparison],
    kinds: tuple[Kind, ...] = KINDS,
) -> list[Job]:
    """Return what there is to do: first to describe every cell, then to compare the pairs.

    Args:
        cells: Evaluated cells.
        evaluations: What identifies the evaluation of each, by its id.
        wanted: Which pairs.
        kinds: Which metrics.
    """

    def of(comparison: Comparison, *pair: CellRecord) -> Job:
        return Job(pair, tuple(evaluations[c.cell_id] for c in pair), comparison, kinds)

    single = [Job((cell,), (evaluations[cell.cell_id],)) for cell in cells]
    return single + [of(what, a, b) for what in wanted for a, b in pairs(cells, what)]


class Findings:
    """The findings of a study: a sealed file for each cell, and in it those of some of its jobs.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: StorePath) -> None:
        self._folder = folder
        self._files: dict[str, dict[str, Facts]] = {}
        """Cell id -> what its file holds, by the jobs' keys."""
        self._unsaved: set[str] = set()
        self._saved = -SAVE_SECONDS  # The first is kept at once.

    def read(self) -> list[DamagedFileError]:
        """Read all files; remove those that are damaged, and return what was wrong with them."""
        damaged = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                record = read_sealed_json(path)
            except DamagedFileError as error:
                damaged.append(error)
                path.unlink(missing_ok=True)
            else:
                self._files[path.stem] = record["facts"] if record else {}
        return damaged

    def get(self, job: Job) -> Facts | None:
        """Return what a job has found, None where it has still to be done."""
        return self._files.get(job.file, {}).get(job.key)

    def add(self, job: Job, facts: Facts) -> None:
        """Take what a job has found; keep it in the store soon."""
        self._files.setdefault(job.file, {})[job.key] = facts
        self._unsaved.add(job.file)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is not in the store yet."""
        for name in sorted(self._unsaved):
            write_sealed_json(self._folder / f"{name}.json", {"facts": self._files[name]})
        self._unsaved.clear()
        self._saved = time.monotonic()

    def keep_only(self, wanted: Iterable[Job]) -> None:
        """Forget what other jobs have found, in the store, too."""
        keys = {job.key for job in wanted}
        for name, facts in list(self._files.items()):
            kept = self._files[name] = {key: facts[key] for key in facts if key in keys}
            if not kept:
                del self._files[name]
                (self._folder / f"{name}.json").unlink(missing_ok=True)
            elif len(kept) < len(facts):
                self._unsaved.add(name)
        self.save()
