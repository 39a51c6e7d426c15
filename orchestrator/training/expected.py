"""Estimate how long cells train, from the speed of similar ones or from the work alone.

The seconds per multiply-accumulate come from the best source there is: cells of the same kind that
this study has trained, a calibration of that kind, or else the median over all other kinds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from orchestrator.store.store import Store
from orchestrator.study.selection import Selection
from orchestrator.training.calibrating import Calibrations, kind_of
from trainables.cell.cell import Cell
from trainables.storage.files import DamagedFileError

ASSUMED_MACS_PER_SECOND = 5e13
"""Sustained multiply-accumulates of one data-centre GPU in mixed precision: an assumption, used
only until something has been measured."""
ASSUMED_CPU_MACS_PER_SECOND = 2e10
"""The same of one CPU core in single precision."""

Rates = Mapping[str, float]
"""Kind of cell -> seconds per multiply-accumulate."""


def expected(
    selection: Selection, cells: Sequence[Cell], macs: Mapping[str, float]
) -> dict[str, float]:
    """Return the expected training time of each cell in seconds, by id, from what the storage has.

    Args:
        selection: The study.
        cells: Some of its cells, all of them in `macs`.
        macs: Multiply-accumulates of each cell's training, by id.
    """
    store = selection.store
    trained = trained_rates(store, [*selection.cells, *selection.searches.trials])
    calibrated = calibrated_rates(Calibrations(store.calibrations), cells)
    return expected_seconds(macs, cells, trained, calibrated)


def expected_seconds(
    macs: Mapping[str, float], cells: Sequence[Cell], trained: Rates, calibrated: Rates
) -> dict[str, float]:
    """Return the expected training time of each cell in seconds, by id.

    Args:
        macs: Multiply-accumulates of each cell's training, by id.
        cells: The cells, all of them in `macs`.
        trained: Rates of kinds that cells have trained, sharing GPUs as they do.
        calibrated: Rates of kinds that were measured alone on a GPU.
    """
    both = [trained[kind] / calibrated[kind] for kind in trained.keys() & calibrated.keys()]
    sharing = median(both) if both else 1.0  # The cost of sharing a GPU.
    known = {kind: rate * sharing for kind, rate in calibrated.items()} | dict(trained)
    otherwise = median(known.values()) if known else 1 / ASSUMED_MACS_PER_SECOND
    return {cell.id: macs[cell.id] * known.get(kind_of(cell), otherwise) for cell in cells}


def trained_rates(store: Store, cells: Iterable[Cell]) -> dict[str, float]:
    """Return the median rate of each kind of cell that the study has trained."""
    rates: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        try:
            result = store.cell(cell.id).result() or {}
        except DamagedFileError:
            continue
        if result.get("macs") and result.get("train_seconds"):
            rates[kind_of(cell)].append(result["train_seconds"] / result["macs"])
    return {kind: median(found) for kind, found in rates.items()}


def calibrated_rates(calibrations: Calibrations, cells: Iterable[Cell]) -> dict[str, float]:
    """Return the median rate, over devices, of each kind of cell that was measured."""
    rates = {}
    for kind, cell in {kind_of(cell): cell for cell in cells}.items():
        records = calibrations.of_all_devices(cell)
        found = [record["seconds_an_image"] / record["macs_an_image"] for record in records]
        if found:
            rates[kind] = median(found)
    return rates
