"""Choose images and cut their pictures from the datasets, after comparing or for a report."""

import io
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records import CellArtifacts, CellRecord, read_arrays
from analysis.samples import EvaluatedCell, Sample, rate_to_choose_at, sample
from orchestrator.console import Context, dataset_root
from orchestrator.results.cell_records import record_of
from orchestrator.results.sample_store import read_sample
from orchestrator.store.evaluation_folder import ARRAYS, PREDICTIONS_FILE
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState, StoredCell
from trainables.pictures import eval_pictures
from trainables.storage.files import DamagedFileError, write_sealed_json
from trainables.storage.paths import StorePath


@dataclass(frozen=True)
class SampleSetting:
    """Evaluated cells shown side by side: of one dataset, capacity, seed and list of blocks."""

    records: Sequence[CellRecord]
    rate: float
    """Keep rate at which the images are chosen."""
    inputs: Mapping[str, str]
    """Digest of the evaluation of each cell, by id."""

    @property
    def file(self) -> str:
        """Name of its file."""
        first = self.records[0]
        return f"{first.dataset}-{first.capacity}-{'.'.join(map(str, first.stages))}.json"


@dataclass(frozen=True)
class SampleJob:
    """A setting whose sample has to be made."""

    setting: SampleSetting
    study: StorePath
    data_root: Path | None
    """Folder of the setting's dataset, to cut pictures out of."""


Samples = Generator[tuple[str, Sample], None, None]
Made = Callable[[list[SampleJob]], Samples]
"""Makes the samples of jobs; yields the name of its file and each sample as it is made."""


def make_samples(
    store: Store,
    cells: Sequence[StoredCell],
    inputs: Mapping[str, str],
    data: Path | None,
    made: Made,
    *,
    pictures: bool = True,
) -> list[str] | None:
    """Make the samples that are missing or whose cells have changed.

    Args:
        store: The study's store.
        cells: All cells of the study, in its order.
        inputs: Their fingerprint.
        data: Folder of the datasets, as it was given.
        made: `in_this_process`, or what makes them in Ray tasks.
        pictures: Whether to make a sample without pictures again: its dataset may be there now.

    Returns:
        The files of all settings, None where not all of them could be made.
    """
    found = list(sample_settings([record_of(cell) for cell in cells], inputs))
    jobs = [
        SampleJob(s, store.path.absolute(), dataset_root(s.records[0].dataset, data))
        for s in found
        if not is_current(store.samples / s.file, s, pictures)
    ]
    written = []
    with closing(made(jobs)) as samples:
        for file, content in samples:
            write_sealed_json(store.samples / file, content.model_dump(mode="json"))
            written.append(file)
    return [setting.file for setting in found] if len(written) == len(jobs) else None


def sample_settings(
    records: Sequence[CellRecord], inputs: Mapping[str, str]
) -> Iterator[SampleSetting]:
    """Yield the settings of a study that have evaluated cells with reduction.

    Each has the seed with the most evaluated cells, the lowest one if several have as many.
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
            yield SampleSetting(chosen, rate, {r.cell_id: inputs[r.cell_id] for r in chosen})


def in_this_process(context: Context) -> Made:
    """Return what makes samples one by one, without Ray, until the launch is stopping."""

    def made(jobs: list[SampleJob]) -> Samples:
        for number, job in enumerate(jobs):
            if context.stopping:
                return
            context.draw("choosing images", number, len(jobs))
            try:
                yield job.setting.file, make_sample(job)
            except (DamagedFileError, ValueError) as error:
                context.note(f"no sample images for {job.setting.file}: {error}")

    return made


def make_sample(job: SampleJob) -> Sample:
    """Choose a setting's images.

    Without their pictures, and with a note, where the dataset is missing.
    """
    store, setting = Store(job.study), job.setting
    made = sample(setting.records, setting.rate, lambda r: _load(store, r), setting.inputs)
    return _with_pictures(made, store, job.data_root)


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
    patterns = read_arrays(io.BytesIO(stored.read_artifact(ARRAYS["patterns"])))
    predictions = pd.read_parquet(io.BytesIO(stored.read_artifact(PREDICTIONS_FILE)))
    return EvaluatedCell(CellArtifacts(record, patterns, {}), predictions)


def is_current(path: StorePath, setting: SampleSetting, pictures: bool = True) -> bool:
    """Return whether a setting's file is whole and made from these evaluations.

    Args:
        path: The file.
        setting: What it is to show.
        pictures: Whether it needs pictures.
    """
    try:
        known = read_sample(path)
    except DamagedFileError:
        return False
    if known is None or known.inputs != setting.inputs:
        return False
    return known.note is None or not pictures
