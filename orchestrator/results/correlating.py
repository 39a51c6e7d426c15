"""Tables that derive from others and take minutes in a large study, as Ray tasks."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import Any

import pandas as pd

from analysis.aliases import Row
from analysis.answers import Answers
from analysis.correlations import correlation_parts, correlation_rows, correlations_of
from analysis.differences import difference_rows, pairwise_rows, settings
from analysis.ranking import ranks_table
from analysis.records import CellRecord
from analysis.seeds import seeds_table
from analysis.tables import map_pairs, map_rows, table
from orchestrator.cluster.task_pool import Call
from orchestrator.results.comparison_context import ComparisonContext

MAPS_A_TASK = 100
"""Pairs of depth maps, each of which takes milliseconds."""

StatisticsJob = tuple[Callable[..., list[Row]], tuple[Any, ...]]


def statistics(
    results: pd.DataFrame,
    compared: Mapping[str, pd.DataFrame],
    done: Sequence[CellRecord],
    answers: Mapping[str, Answers],
    context: ComparisonContext,
) -> dict[str, pd.DataFrame] | None:
    """Return the tables that follow from accuracies and answers, and `heatmaps`.

    Args:
        results: The study's `results`.
        compared: The tables that comparing has filled.
        done: The evaluated cells.
        answers: What they answered, by their ids.
        context: The launch's; None is returned if it is stopping.

    Raises:
        ComparisonError: A task failed.
    """
    pairs = map_pairs(compared["depth_maps"], done)
    maps: list[StatisticsJob] = [
        (map_rows, (pairs[first : first + MAPS_A_TASK],))
        for first in range(0, len(pairs), MAPS_A_TASK)
    ]
    correlated: list[StatisticsJob] = [
        (correlation_rows, part) for part in correlation_parts(results, compared)
    ]
    paired: dict[str, list[StatisticsJob]] = {
        name: [(rows, _with_answers(cells, answers)) for cells in settings(done)]
        for name, rows in (("differences", difference_rows), ("pairwise", pairwise_rows))
    }
    parts = {"heatmaps": maps, "correlations": correlated, **paired}
    found = _in_tasks(list(chain(*parts.values())), context)
    if found is None:
        return None
    made = iter(found)
    rows = {name: list(chain(*islice(made, len(jobs)))) for name, jobs in parts.items()}
    return {
        "correlations": correlations_of(rows.pop("correlations")),
        "seeds": seeds_table(results, answers),
        "ranks": ranks_table(results),
        **{name: table(name, found) for name, found in rows.items()},
    }


def _with_answers(
    cells: Sequence[CellRecord], answers: Mapping[str, Answers]
) -> tuple[Sequence[CellRecord], Mapping[str, Answers]]:
    return cells, {cell.cell_id: answers[cell.cell_id] for cell in cells}


def do_part(function: Callable[..., list[Row]], arguments: Sequence[Any]) -> list[Row]:
    """Return the rows that a part adds to its table."""
    return function(*arguments)


def _in_tasks(parts: Sequence[StatisticsJob], context: ComparisonContext) -> list[list[Row]] | None:
    """Return the rows of each part, in order; None if the launch is stopping."""
    calls = [Call(f"part {number}", part) for number, part in enumerate(parts)]
    made: dict[str, list[Row]] = {}

    def tick() -> None:
        context.launch.compare(len(made), len(parts))

    with closing(context.in_tasks(do_part, calls, "summarise", tick)) as found:
        made.update(found)
    return [made[call.key] for call in calls] if len(made) == len(calls) else None
