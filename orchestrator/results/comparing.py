"""The comparison stage: evaluated cells, and pairs of them, become the study's tables."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pandas as pd
import ray

from analysis.comparisons import Comparison, pairs
from analysis.correlations import correlations_table
from analysis.ranks import ranks_table
from analysis.records import CellRecord
from analysis.seeds import seeds_table
from analysis.tables import heatmaps_table, results_table, table
from orchestrator.cluster.lane import Lane
from orchestrator.results.records import record_of, records_at_all_rates
from orchestrator.results.tables import fingerprint, publish_tables
from orchestrator.results.tasks import compare_pairs, describe_cells
from orchestrator.storage.store import CellState, Store, StoredCell
from trainables.files import DamagedFileError
from trainables.store_path import StorePath

T = TypeVar("T")
Frames = dict[str, pd.DataFrame]

CELLS_PER_TASK = 8
PAIRS_PER_TASK = 16
"""A task costs milliseconds to start; a pair takes about as long to compare."""

COMPARISONS: tuple[Comparison, ...] = ("models", "rates", "capacity")
"""What the compared cells differ in."""

COMPARED_TABLES = ("pruning", "merging", "features", "tokens", "depth_maps")
"""Tables that Ray tasks fill; the others follow from these and from the cells' records."""


class ComparisonError(Exception):
    """A comparison task failed; nothing was written.

    Attributes:
        damaged: The file whose damage was why, if one's was.
    """

    def __init__(self, reason: str, damaged: StorePath | None = None) -> None:
        super().__init__(reason)
        self.damaged = damaged


def write_tables(
    store: Store, cells: Sequence[StoredCell], limit: int, on_tick: Callable[[], None]
) -> None:
    """Compare all evaluated cells and write every table, then the record that vouches for them.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        limit: Most Ray tasks in flight.
        on_tick: Called over and over while tasks run.

    Raises:
        ComparisonError: A task failed.
    """
    inputs = fingerprint(cells)
    records = [record_of(cell) for cell in cells]
    results = results_table(row for cell in cells for row in records_at_all_rates(cell))
    tables = _tables(store, records, limit, on_tick)
    statistics = {
        "seeds": seeds_table(results),
        "correlations": correlations_table(results, tables),
        "ranks": ranks_table(results),
    }
    publish_tables(store, {"results": results} | tables | statistics, inputs)


def _tables(
    store: Store, records: Sequence[CellRecord], limit: int, on_tick: Callable[[], None]
) -> dict[str, pd.DataFrame]:
    done = [record for record in records if record.state == CellState.DONE]
    path = store.path.absolute()
    describing = Lane(ray.remote(num_cpus=0)(describe_cells), limit, "describe")
    for number, records_of_task in enumerate(_chunks(done, CELLS_PER_TASK)):
        describing.submit(f"cells, part {number}", path, records_of_task)
    frames = _outcomes(describing, on_tick)
    comparing = Lane(ray.remote(num_cpus=0)(compare_pairs), limit, "compare")
    for comparison in COMPARISONS:
        for number, pairs_of_task in enumerate(_chunks(pairs(done, comparison), PAIRS_PER_TASK)):
            comparing.submit(f"{comparison}, part {number}", path, comparison, pairs_of_task)
    frames += _outcomes(comparing, on_tick)
    tables = {name: _concatenate(name, frames) for name in COMPARED_TABLES}
    return tables | {"heatmaps": heatmaps_table(tables["depth_maps"], done)}


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _outcomes(lane: Lane, on_tick: Callable[[], None]) -> list[Frames]:
    """Return what every task made, in the order of submission, so that tables repeat exactly."""
    outcomes = {}
    order = lane.keys()
    for key, outcome in lane.drain():
        if isinstance(outcome, Exception):
            raise _error(key, outcome) from outcome
        outcomes[key] = outcome
        on_tick()
    return [outcomes[key] for key in order]


def _error(key: str, outcome: Exception) -> ComparisonError:
    cause = getattr(outcome, "cause", None)  # Of what a task raised.
    if isinstance(cause, DamagedFileError):
        return ComparisonError(f"{cause}; the next launch makes it again", cause.path)
    return ComparisonError(f"comparing {key} failed: {outcome}")


def _concatenate(name: str, frames: Sequence[Frames]) -> pd.DataFrame:
    parts = [made[name] for made in frames if name in made and len(made[name])]
    return pd.concat(parts, ignore_index=True) if parts else table(name, [])
