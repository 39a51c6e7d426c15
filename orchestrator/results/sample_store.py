"""The samples in the store: a few images of each setting, and what its cells made of them.

Each file is sealed by itself; the record, written last, says from which cells they were made.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.store.store import Store
from trainables.storage import layout
from trainables.storage.files import DamagedFileError, JsonRecord, digest, read_sealed_json
from trainables.storage.paths import StorePath
from trainables.storage.sealed import Digests, SealedFiles

if TYPE_CHECKING:
    from analysis.samples import Sample

SAMPLE_RULE = "1"
"""Changes with what a sample holds; samples made by another rule are made again."""


def samples_are_current(store: Store, inputs: Mapping[str, str]) -> bool:
    """Return whether the samples are whole and made from the study's current cells.

    Args:
        store: The study's store.
        inputs: The cells' fingerprint.

    Raises:
        DamagedFileError: They were made from these cells, but one is damaged.
    """
    return _samples(store).is_current(_check_seal, rule=SAMPLE_RULE, inputs=inputs)


def read_sample(path: StorePath) -> "Sample | None":
    """Return a sample, None if there is no file.

    Raises:
        DamagedFileError: The file is damaged or holds no sample.
    """
    from analysis.samples import Sample  # Imports pandas.

    content = read_sealed_json(path)
    try:
        return None if content is None else Sample.model_validate(content)
    except ValidationError as error:
        raise DamagedFileError(path, "it holds no sample") from error


def read_samples(store: Store) -> "list[Sample]":
    """Return all samples."""
    found = map(read_sample, sample_files(store))
    return [sample for sample in found if sample is not None]


def sample_files(store: Store) -> list[StorePath]:
    """Return the files of all settings, sorted."""
    files = sorted(layout.SAMPLE.found(store.path), key=lambda path: path.name)
    return [path for path in files if path.name != layout.SAMPLES_RECORD.name_in_folder()]


def sample_digests(store: Store) -> dict[str, str]:
    """Return the digest of each setting's file, by its name."""
    return {path.name: digest(path.read_bytes()) for path in sample_files(store)}


def repair_samples(store: Store) -> list[DamagedFileError]:
    """Remove the samples that are damaged; return what was wrong with each."""
    damaged = []
    for path in layout.SAMPLE.found(store.path):
        try:
            read_sealed_json(path)
        except DamagedFileError as error:
            damaged.append(error)
            _samples(store).record_path.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    return damaged


def publish_samples(store: Store, names: Collection[str], inputs: Mapping[str, str]) -> None:
    """Write the record of the files of all settings, and remove other files."""
    for path in sample_files(store):
        if path.name not in names:
            path.unlink(missing_ok=True)
    _samples(store).seal({"rule": SAMPLE_RULE, "inputs": dict(inputs), "files": sorted(names)})


def _samples(store: Store) -> SealedFiles:
    names = (layout.SAMPLE.glob_in_folder,)
    return SealedFiles(store.samples, layout.SAMPLES_RECORD.name_in_folder(), names, _vouched)


def _vouched(record: JsonRecord) -> Digests:
    return dict.fromkeys(record["files"], "")


def _check_seal(path: StorePath, _: str) -> None:
    if read_sealed_json(path) is None:
        raise DamagedFileError(path, "it is missing")
