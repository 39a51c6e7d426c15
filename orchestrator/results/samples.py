"""The samples in the store: for each setting a few images, and what its cells made of them.

`STUDY/samples/` has a sealed file for each setting, and `inputs.json`, which is written last and
says from which cells they were made.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.storage.store import Store
from trainables.files import (
    DamagedFileError,
    digest,
    read_sealed_json,
    write_sealed_json,
)
from trainables.store_path import StorePath

if TYPE_CHECKING:
    from analysis.samples import Sample

RULE = "1"
"""Changes with what a sample holds: those of before are then made again."""


def samples_are_current(store: Store, inputs: Mapping[str, str]) -> bool:
    """Tell whether the samples are whole and made from the study's cells as they are now.

    Args:
        store: The study's store.
        inputs: The cells' fingerprint.
    """
    record = read_sealed_json(_record(store))
    if record is None or (record["rule"], record["inputs"]) != (RULE, inputs):
        return False
    for name in record["files"]:
        if "/" in name or not name.endswith(".json"):
            raise DamagedFileError(_record(store), f"{name!r} is no sample")
    return all(read_sealed_json(store.samples / name) is not None for name in record["files"])


def read_sample(path: StorePath) -> "Sample | None":
    """Return a sample, None where there is no file.

    Raises:
        DamagedFileError: It is damaged, or is none.
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
    files = sorted(store.samples.glob("*.json"), key=lambda path: path.name)
    return [path for path in files if path.name != _record(store).name]


def sample_digests(store: Store) -> dict[str, str]:
    """Return the digest of each setting's file, by its name."""
    return {path.name: digest(path.read_bytes()) for path in sample_files(store)}


def repair_samples(store: Store) -> list[DamagedFileError]:
    """Remove the samples that are damaged, which the next launch makes again; return why."""
    damaged = []
    for path in store.samples.glob("*.json"):
        try:
            read_sealed_json(path)
        except DamagedFileError as error:
            path.unlink(missing_ok=True)
            damaged.append(error)
    return damaged


def publish_samples(store: Store, names: Collection[str], inputs: Mapping[str, str]) -> None:
    """Vouch for the files of the settings there are, and remove others."""
    for path in sample_files(store):
        if path.name not in names:
            path.unlink(missing_ok=True)
    record = {"rule": RULE, "inputs": dict(inputs), "files": sorted(names)}
    write_sealed_json(_record(store), record)


def _record(store: Store) -> StorePath:
    return store.samples / "inputs.json"
