"""Choose images and cut their pictures out of the datasets: when comparing, or for a report."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import ray

from analysis.records import CellArtifacts, CellRecord, read_arrays
from analysis.samples import EvaluatedCell, Sample, rate_to_choose_at, sample
from orchestrator.cluster.lane import Lane
from orchestrator.data.datasets import dataset_root
from orchestrator.results.driver import TASK_RETRIES, Driver, error_of
from orchestrator.results.records import record_of
from orchestrator.results.samples import publish_samples, read_sample
from orchestrator.results.tables import fingerprint
from orchestrator.storage.store import CellState, Store, StoredCell
from trainables.files import DamagedFileError, write_sealed_json
from trainables.patience import patience
from trainables.pictures import eval_pictures
from trainables.store_path import StorePath


@dataclass(frozen=True)
class Setting:
    """Evaluated cells to be shown side by side: alike in dataset, capacity, blocks and seed."""

    records: Sequence[CellRecord]
    rate: float
    """Keep rate at which the images are chosen."""
    inputs: Mapping[str, str]
    """What identifies the evaluation of each cell, by id."""

    @property
    def file(self) -> str:
        """Name of its file."""
        first = self.records[0]
        return f"{first.dataset}-{first.capacity}-{'.'.join(map(str, first.stages))}.json"


def write_samples(
    store: Store, cells: Sequence[StoredCell], data: Path | None, driver: Driver
) -> None:
    """Make the samples that are missing, or whose cells have changed; then vouch for all.

    A sample without pictures is made again, for the dataset may be at hand now. Where the driver
    is asked to stop, what is made by then stays.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        data: Folder of the datasets, as it was given.
        driver: What the launch offers.

    Raises:
        ComparisonError: A task failed, for another reason than that a dataset is not at hand.
    """
    inputs = fingerprint(cells)
    found = list(settings([record_of(cell) for cell in cells], inputs))
    task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(make_sample)
    lane = Lane(task, driver.cpus, "sample")
    for setting in found:
        if not is_current(store.samples / setting.file, setting):
            root = dataset_root(setting.records[0].dataset, data)
            lane.submit(setting.file, store.path.absolute(), setting, root)
    try:
        while lane:
            for file, outcome in lane.poll(seconds=0.2):
                if isinstance(outcome, Exception):
                    raise error_of(f"images for {file}", outcome) from outcome
                write_sealed_json(store.samples / file, outcome)
            driver.tell(0, 0)  # Nothing is left to compare, and the display goes on.
            if driver.stopping():
                return
    finally:
        lane.abandon()
    publish_samples(store, [setting.file for setting in found], inputs)


def settings(records: Sequence[CellRecord], inputs: Mapping[str, str]) -> Iterator[Setting]:
    """Yield the settings of a study that have evaluated cells with reduction.

    Of several seeds it is the one with the most evaluated cells, and the lowest of several.
    """
    groups: dict[tuple[Any, ...], list[CellRecord]] = {}
    for record in records:
        if record.state == CellState.DONE:
            groups.setdefault((record.dataset, record.capacity, record.stages), []).append(record)
    for group in groups.values():
        seeds = Counter(record.seed for record in sorted(group, key=lambda record: record.seed))
        chosen = [record for record in group if record.seed == seeds.most_common(1)[0][0]]
        rate = rate_to_choose_at(chosen)
        if rate is not None:
            yield Setting(chosen, rate, {r.cell_id: inputs[r.cell_id] for r in chosen})


def fill_samples(
    store: Store,
    cells: Sequence[StoredCell],
    data: Path | None,
    say: Callable[[str], None],
    tell: Callable[[int, int], None],
    stopping: Callable[[], bool],
) -> None:
    """Make the samples that are missing or whose cells have changed, in this process.

    One without pictures is made again where there is a folder to look in. None is vouched for: a
    launch that compares looks whether each has its pictures.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        data: Folder of the datasets, as it was given.
        say: Told which setting has no sample, and why.
        tell: Told how many samples are made, of how many.
        stopping: Asked before each setting whether to stop there.
    """
    found = settings([record_of(cell) for cell in cells], fingerprint(cells))
    missing = [s for s in found if not is_current(store.samples / s.file, s, data is not None)]
    for number, setting in enumerate(missing):
        if stopping():
            return
        tell(number, len(missing))
        try:
            root = dataset_root(setting.records[0].dataset, data)
            write_sealed_json(store.samples / setting.file, sample_of(store, setting, root))
        except (DamagedFileError, ValueError) as error:
            say(f"no images for {setting.file}: {error}")


def make_sample(study: StorePath, setting: Setting, data_root: Path | None) -> dict[str, Any]:
    """Return a setting's sample as plain data; with a note where its dataset is not at hand."""
    with patience():
        return sample_of(Store(study), setting, data_root)


def sample_of(store: Store, setting: Setting, data_root: Path | None) -> dict[str, Any]:
    """Do as `make_sample`, without waiting for a storage that fails."""
    made = sample(setting.records, setting.rate, lambda r: _load(store, r), setting.inputs)
    return _with_pictures(made, store, data_root).model_dump(mode="json")


def _with_pictures(made: Sample, store: Store, data_root: Path | None) -> Sample:
    cell = store.cell(made.cells[0].cell_id).cell()
    images = [chosen.image for chosen in made.chosen]
    try:
        pictures, names = eval_pictures(cell, images, data_root, store.datasets)
    except (OSError, ValueError) as error:
        return made.model_copy(update={"note": str(error)})
    chosen = zip(made.chosen, pictures, strict=True)
    return made.model_copy(
        update={
            "chosen": tuple(c.model_copy(update={"picture": p}) for c, p in chosen),
            "class_names": {c: names[c] for c in sorted(made.classes)},
        }
    )


def _load(store: Store, record: CellRecord) -> EvaluatedCell:
    stored = store.cell(record.cell_id)
    patterns = read_arrays(io.BytesIO(stored.read_artifact("patterns.npz")))
    predictions = pd.read_parquet(io.BytesIO(stored.read_artifact("predictions.parquet")))
    return EvaluatedCell(CellArtifacts(record, patterns, {}), predictions)


def is_current(path: StorePath, setting: Setting, pictures: bool = True) -> bool:
    """Tell whether a setting's file is whole and made from these evaluations.

    Args:
        path: The file.
        setting: What it is to show.
        pictures: Whether it has to have them.
    """
    try:
        known = read_sample(path)
    except DamagedFileError:
        return False
    if known is None or known.inputs != setting.inputs:
        return False
    return known.note is None or not pictures
