"""How long the cells that are left will take, from those that were measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.watching.status import TimeLeft

CONFIDENCE = 0.8
FEWEST_CELLS = 2
"""The spread of fewer says nothing."""


@dataclass(frozen=True)
class MeasuredTraining:
    """What was done of one cell in this launch."""

    work: float
    """In any unit, the same for all cells; above 0."""
    cost: float
    """Seconds it took, times the GPUs (or CPUs) it reserved."""


@dataclass(frozen=True)
class RemainingTime:
    """What is left of one cell."""

    work: float
    reserved: float
    """GPUs (or CPUs) that it reserves or will reserve; above 0."""
    after: float = 0.0
    """Work left of the cell that has to be trained before it, done with as many GPUs."""


def time_left(
    measured: Sequence[MeasuredTraining], left: Sequence[RemainingTime], reserved: float
) -> TimeLeft | None:
    """Estimate how long training goes on, from what cells cost against what was expected.

    A unit of work costs `c` GPU-seconds on average over the measured cells, the total cost by the
    total work, so that a cell that has just begun counts for little. The cells left then cost
    `c * sum(work)`, and take that long divided by the GPUs that are reserved now, but at least as
    long as the longest of them alone.

    Cells differ: some take longer for their expected work than others. `s` is the standard
    deviation of the measured cells' cost a unit, weighted by their work, and `n` the number of
    cells of equal work that would tell as much (Kish's effective sample size). The cost of the
    cells left is uncertain because `c` is, which concerns all of them alike, and because each
    differs by itself: its standard deviation is
    `s * sqrt(sum(work)^2 / n + sum(work^2))`. The interval is Student's, with `n - 1` degrees of
    freedom, that of a prediction; it covers 80 % if costs are about normal and what is left is
    like what was measured. It does not know of nodes that will be lost, of retries, or of cells
    that will be packed otherwise, and evaluations are not counted.

    Args:
        measured: What cells have cost in this launch, running ones included.
        left: What is left, of running cells and of others.
        reserved: GPUs (or CPUs) that running cells reserve now.

    Returns:
        The time left, without an interval where fewer than two cells' worth was measured; None
        where nothing was measured, nothing runs, or nothing is left.
    """
    done = sum(cell.work for cell in measured)
    ahead = sum(cell.work for cell in left)
    if done <= 0 or ahead <= 0 or reserved <= 0:
        return None
    cost = sum(cell.cost for cell in measured) / done
    longest = max((cell.work + cell.after) / cell.reserved for cell in left)

    def seconds(deviations: float = 0.0) -> float:
        """Return the time left where costs are so many standard deviations above the mean."""
        return max(
            0.0,
            (cost * ahead + deviations * of_all) / reserved,
            (cost + deviations * of_one) * longest,
        )

    cells = done**2 / sum(cell.work**2 for cell in measured)
    of_all = of_one = 0.0
    if cells < FEWEST_CELLS:
        return TimeLeft(seconds=seconds())
    variance = sum(cell.work * (cell.cost / cell.work - cost) ** 2 for cell in measured) / done
    spread = math.sqrt(variance * cells / (cells - 1))
    of_all = spread * math.hypot(ahead / math.sqrt(cells), *(cell.work for cell in left))
    of_one = spread * math.sqrt(1 + 1 / cells)
    quantile = _quantile(cells - 1)
    return TimeLeft(seconds=seconds(), low=seconds(-quantile), high=seconds(quantile))


def _quantile(degrees: float) -> float:
    """Return Student's quantile that leaves half of what `CONFIDENCE` does not cover above it."""
    from scipy.special import stdtrit  # Not where there is nothing to estimate.

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
