"""Speed of a study's cells: what is to be measured, and what of it the tables say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.console import dataset_root
from orchestrator.results.cell_records import records_at_all_rates
from orchestrator.results.table_store import (
    fingerprint,
    read_tables,
    replace_tables,
)
from orchestrator.store.measurements import Measurements, versions
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import StoredCell
from trainables.measuring.configuration import Configuration
from trainables.measuring.settings import Effort, MeasureSettings
from trainables.storage.files import read_sealed_json, write_sealed_json

if TYPE_CHECKING:
    import pandas as pd

    from trainables.cell.cell import Cell
    from trainables.measuring.measuring import Place, TrainedCell


@dataclass(frozen=True)
class SpeedJob:
    """One configuration to be measured."""

    configuration: Configuration
    batch_sizes: tuple[int, ...]
    effort: Effort

    @property
    def name(self) -> str:
        """What is measured, in words."""
        return self.configuration.name


def settings_of(store: Store) -> MeasureSettings:
    """Return what a stored study says about measuring."""
    return MeasureSettings.model_validate(store.read_study().get("measure", {}))


def configurations(cells: "Iterable[Cell]", settings: MeasureSettings) -> dict[str, Configuration]:
    """Return what there is to measure of cells by its key, each once, in their order."""
    found = (
        Configuration.of(cell, rate, settings.precision, compiled=settings.compile)
        for cell in cells
        for rate in (None, *cell.eval_keep_rates)
    )
    return {configuration.key: configuration for configuration in found}


def jobs(cells: "Iterable[Cell]", settings: MeasureSettings, known: Measurements) -> list[SpeedJob]:
    """Return what launches of studies have still to measure, on whichever device."""
    found = []
    for configuration in configurations(cells, settings).values():
        done = known.of(configuration)
        missing = tuple(
            size
            for size in settings.batch_sizes
            if not any(each.has(size, by_study=True) for each in done)
        )
        if missing:
            found.append(SpeedJob(configuration, missing, settings.effort))
    return found


def can_be_measured(store: Store, configuration: Configuration) -> bool:
    """Tell whether the cell is trained whose weights decide, if there is one."""
    cell = configuration.trained_as
    return cell is None or store.cell(cell).is_trained()


def measure_on(
    store: Store, job: SpeedJob, data: Path | None, place: "Place", *, by_study: bool
) -> None:
    """Do a job here; keep what is measured at each batch size as it comes.

    Raises:
        DamagedFileError: The weights of a cell that are needed are missing or damaged.
    """
    from trainables.measuring.measuring import measure
    from trainables.measuring.surroundings import device_facts

    known, configuration = Measurements(store.measurements), job.configuration
    trained = _trained(store, job, data) if configuration.trained_as else None
    facts = device_facts(place.device, place.threads)
    for size, record in measure(configuration, job.batch_sizes, job.effort, place, trained):
        known.add(configuration, facts, size, record, by_study=by_study)


def _trained(store: Store, job: SpeedJob, data: Path | None) -> "TrainedCell":
    from safetensors.torch import load

    from trainables.measuring.measuring import TrainedCell

    best = store.cell(job.configuration.trained_as or "").load_best()
    root = dataset_root(job.configuration.cell.dataset, data)
    return TrainedCell(load(best), root, store.datasets)


def speeds_are_current(store: Store, cells: Mapping[str, str]) -> bool:
    """Tell whether all cells were measured as this fingerprint says they are, and tables say so.

    Raises:
        DamagedFileError: The record that would tell is damaged.
    """
    record = read_sealed_json(store.measured)
    return record is not None and record == _inputs(store, cells)


def update_speeds(store: Store, cells: Sequence[StoredCell], *, complete: bool = False) -> None:
    """Have the tables say what is known of the speed of a study's cells.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        complete: Whether all that the study asks for has been measured.
    """
    replace_tables(store, speed_tables(store, cells, read_tables(store)))
    if complete:
        write_sealed_json(store.measured, _inputs(store, fingerprint(cells)))


def speed_tables(
    store: Store, cells: Iterable[StoredCell], tables: "Mapping[str, pd.DataFrame]"
) -> "dict[str, pd.DataFrame]":
    """Return the table `speed`, and what follows for `results` and `budgets` from `tables`."""
    from analysis.budgets import budgets_table  # Imports pandas.
    from analysis.speeds import MeasuredCell, speed_table, with_speed

    settings, known = settings_of(store), Measurements(store.measurements)
    measured = []
    for stored in cells:
        cell = stored.cell()
        for record in records_at_all_rates(stored):
            wanted = Configuration.of(
                cell, record.eval_keep_rate, settings.precision, compiled=settings.compile
            )
            measured += [
                MeasuredCell(record, found.key, found.device, size, facts)
                for found in known.of(wanted)
                for size, facts in found.batch_sizes.items()
            ]
    speed = speed_table(measured)
    joined = {"results": with_speed(tables["results"], speed)} if "results" in tables else {}
    found = {"speed": speed} | joined
    if "pairwise" not in tables:  # Nothing has been compared yet.
        return found
    return found | {"budgets": budgets_table({**tables, **found})}


def _inputs(store: Store, cells: Mapping[str, str]) -> dict[str, Any]:
    settings = settings_of(store).model_dump(mode="json")
    return {"cells": dict(cells), "settings": settings, "versions": versions()}
