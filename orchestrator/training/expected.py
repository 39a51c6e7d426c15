"""How long cells are expected to train: from what like ones took, or else from what they compute.

Seconds for a multiply-accumulate are known, from the best source to the worst, of cells of the same
kind that this study has trained, of a calibration of that kind, and of all other kinds on average.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from orchestrator.packing.calibrating import Calibrations, kind_of
from orchestrator.selection import Selection
from orchestrator.storage.store import Store
from trainables.cell import Cell
from trainables.files import DamagedFileError

ASSUMED_MACS_PER_SECOND = 5e13
"""Sustained multiply-accumulates of one data-centre GPU in mixed precision: an assumption, used
only while nothing has been measured."""

Rates = Mapping[str, float]
"""Kind of cell -> seconds for each multiply-accumulate."""


def expected(
    selection: Selection, cells: Sequence[Cell], macs: Mapping[str, float]
) -> dict[str, float]:
    """Return the seconds that each cell is expected to train, by id, as far as the storage tells.

    Args:
        selection: The study.
        cells: Some of its cells, all of them in `macs`.
        macs: Multiply-accumulates of each cell's training, by id.
    """
    store = selection.store
    trained = trained_rates(store, selection.cells)
    calibrated = calibrated_rates(Calibrations(store.calibrations), cells)
    return expected_seconds(macs, cells, trained, calibrated)


def expected_seconds(
    macs: Mapping[str, float], cells: Sequence[Cell], trained: Rates, calibrated: Rates
) -> dict[str, float]:
    """Return the seconds that each cell is expected to train, by id.

    Args:
        macs: Multiply-accumulates of each cell's training, by id.
        cells: The cells, all of them in `macs`.
        trained: Of kinds of which cells are trained, in the company that cells have on a GPU.
        calibrated: Of kinds that were measured, alone on a GPU.
    """
    both = [trained[kind] / calibrated[kind] for kind in trained.keys() & calibrated.keys()]
    company = median(both) if both else 1.0  # What sharing a GPU costs.
    known = {kind: rate * company for kind, rate in calibrated.items()} | dict(trained)
    otherwise = median(known.values()) if known else 1 / ASSUMED_MACS_PER_SECOND
    return {cell.id: macs[cell.id] * known.get(kind_of(cell), otherwise) for cell in cells}


def trained_rates(store: Store, cells: Iterable[Cell]) -> dict[str, float]:
    """Return the median rate of each kind of which the study has trained cells."""
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
