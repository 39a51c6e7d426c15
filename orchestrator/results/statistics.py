"""Tables that follow from others and take minutes in a large study: in parts, as Ray tasks."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd
import ray

from analysis.correlations import correlation_parts, correlation_rows, correlations_of
from analysis.ranks import ranks_table
from analysis.records import CellRecord
from analysis.seeds import seeds_table
from analysis.tables import Row, map_pairs, map_rows, table
from orchestrator.cluster.lane import Lane
from orchestrator.results.driver import IN_FLIGHT_PER_CPU, TASK_RETRIES, Driver, error_of

MAPS_A_TASK = 100
"""Pairs of depth maps, each of which takes milliseconds."""

Part = tuple[Callable[..., list[Row]], tuple[Any, ...]]


def statistics(
    results: pd.DataFrame,
    compared: Mapping[str, pd.DataFrame],
    done: Sequence[CellRecord],
    driver: Driver,
) -> dict[str, pd.DataFrame] | None:
    """Return the tables `heatmaps`, `correlations`, `seeds` and `ranks`.

    Args:
        results: The study's `results`.
        compared: The tables that comparing has filled.
        done: The evaluated cells.
        driver: What the launch offers; None is returned where it is asked to stop.

    Raises:
        ComparisonError: A task failed.
    """
    pairs = map_pairs(compared["depth_maps"], done)
    maps: list[Part] = [
        (map_rows, (pairs[first : first + MAPS_A_TASK],))
        for first in range(0, len(pairs), MAPS_A_TASK)
    ]
    correlated: list[Part] = [
        (correlation_rows, part) for part in correlation_parts(results, compared)
    ]
    found = _in_tasks([*maps, *correlated], driver)
    if found is None:
        return None
    return {
        "heatmaps": table("heatmaps", chain(*found[: len(maps)])),
        "correlations": correlations_of(list(chain(*found[len(maps) :]))),
        "seeds": seeds_table(results),
        "ranks": ranks_table(results),
    }


def do_part(function: Callable[..., list[Row]], arguments: Sequence[Any]) -> list[Row]:
    """Return what a part adds to its table."""
    return function(*arguments)


def _in_tasks(parts: Sequence[Part], driver: Driver) -> list[list[Row]] | None:
    """Return what each part makes, in their order; None where the driver is asked to stop."""
    task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(do_part)
    lane = Lane(task, driver.cpus * IN_FLIGHT_PER_CPU, "summarise")
    for number, part in enumerate(parts):
        lane.submit(f"part {number}", *part)
    names, made = lane.keys(), {}
    try:
        while lane:
            for name, outcome in lane.poll(seconds=0.2):
                if isinstance(outcome, Exception):
                    raise error_of(name, outcome) from outcome
                made[name] = outcome
            driver.tell(len(made), len(parts))
            if driver.stopping():
                return None
    finally:
        lane.abandon()
    return [made[name] for name in names]
